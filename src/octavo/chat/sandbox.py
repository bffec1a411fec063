"""Jinja for untrusted templates: an allow-list of operations, each under a meter.

Jinja's immutable sandbox refuses access to Python's internals. The operations it allows can still use up all time and
memory. The syntax tree is therefore rewritten to report to the meter where Jinja has no hook: in loops, for lists that
are created, compared or sliced, and in `~`. Filters, methods and globals are those that chat templates use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Namespace, pass_context
from jinja2.visitor import NodeTransformer

from octavo.chat import operations as ops
from octavo.chat.formatter import Formatter
from octavo.chat.limits import LimitError, current

MAX_SOURCE = 1 << 17  # characters; the longest templates in use have 30,000
MAX_TOKENS = 8000  # of Jinja; Qwen2.5's template has 340


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Readable attributes by type. Items of mappings and lists are always readable.
ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (
        str,
        _words(
            "capitalize casefold center count endswith expandtabs find index isalnum isalpha isascii isdecimal isdigit "
            "isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition "
            "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith "
            "strip swapcase title upper zfill"
        ),
    ),
    (Mapping, _words("copy get items keys values")),
    (list, _words("copy count index")),
    (ops.GROUP, _words("count grouper index list")),
    (tuple, _words("count index")),
    (Cycler, _words("current next reset")),
    (
        LoopContext,
        _words("changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"),
    ),
)

# Jinja's filters with bounded results. Left out: `attr`, as a dot does the same; `random`, so that a chat has one
# prompt; `pprint` and `urlize`, whose time grows faster than their input.
_PLAIN_FILTERS = _words(
    "abs capitalize count d default dictsort e escape filesizeformat first float forceescape groupby int items last "
    "length list lower map max min reject rejectattr reverse safe select selectattr sort string title truncate unique "
    "upper urlencode wordcount xmlattr"
)
_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "batch": ops.batch,
    "center": ops.center,
    "format": ops.format_text,
    "indent": ops.indent,
    "join": ops.join,
    "replace": ops.replace,
    "round": ops.round_to,
    "slice": ops.slice_into,
    "striptags": ops.strip_tags,
    "sum": ops.add_up,
    "tojson": ops.to_json,
    "trim": ops.trim,
    "wordwrap": ops.wrap_words,
}
_OPERATORS = {"*": ops.multiply, "**": ops.power, "%": ops.modulo}


def metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that the meter counts its result."""

    @functools.wraps(function)  # keeps Jinja's mark on functions that take the context
    def call(*args: Any, **kwargs: Any) -> Any:
        return current().checked(function(*args, **kwargs))

    return call


class _Rewriter(NodeTransformer):
    """Adds calls to the meter where generated code would otherwise run without them."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_report("checked", nodes.Const(None)), lineno=node.lineno))
        if node.test is not None:
            node.test = _report("checked", cast(nodes.Expr, node.test))
        return node

    def _wrap(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return _report("checked", node)

    visit_List = visit_Dict = visit_Compare = _wrap

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _report("checked", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _report("checked", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _report("concat", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def _refuse(self, node: nodes.Node) -> nodes.Node:
        raise LimitError(f"line {node.lineno}: {type(node).__name__.lower()} is not supported in chat templates")

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse
    visit_EvalContextModifier = visit_ScopedEvalContextModifier = _refuse


def _report(method: str, argument: nodes.Expr) -> nodes.Call:
    target = nodes.EnvironmentAttribute(method, lineno=argument.lineno)
    return nodes.Call(target, [argument], [], None, None, lineno=argument.lineno)


class _Generator(CodeGenerator):
    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        """Calls our own reports directly. No template can write an EnvironmentAttribute."""
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.write(f"environment.{node.node.name}(")
        self.visit(node.args[0], frame)
        self.write(")")


class GenerationTag(Extension):
    """{% generation %} marks the assistant's text for training. Here it only groups."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class TokenLimit(Extension):
    """Limits the tokens. Compiling takes up to 40 us per token, mostly in Python's compiler, outside the meter."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for count, token in enumerate(stream):
            if count >= MAX_TOKENS:
                raise LimitError(f"it has more than {MAX_TOKENS} tokens")
            yield token


@pass_context  # also keeps Jinja from evaluating constant expressions while it compiles
def write_out(context: Context, value: Any) -> str:
    """Returns the text of {{ value }}."""
    if not isinstance(value, (str, int, float, list, tuple, Mapping, Undefined, type(None))):
        raise LimitError(f"it writes out a {type(value).__name__}")  # whose text may hold memory addresses
    meter = current()
    meter.allow(meter.size(value))
    text: str = meter.checked(value if isinstance(value, str) else str(value))
    return text


class Sandbox(ImmutableSandboxedEnvironment):
    """The Jinja environment. Compiling and rendering can raise LimitError, Jinja's errors and any Python exception."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, GenerationTag, TokenLimit],
            finalize=write_out,
            optimized=False,
            cache_size=0,
        )
        self.filters = {name: metered(FILTERS[name]) for name in _PLAIN_FILTERS}
        self.filters |= {name: metered(function) for name, function in _OWN_FILTERS.items()}
        self.tests = {name: metered(cast(Any, function)) for name, function in TESTS.items()}
        self.globals = {
            "cycler": ops.make_cycler,
            "dict": ops.make_dict,
            "joiner": ops.make_joiner,
            "namespace": ops.QuietNamespace,
            "raise_exception": ops.raise_exception,
            "range": safe_range,
            "strftime_now": ops.strftime_now,
        }
        self.binop_table |= _OPERATORS

    # Called by generated code, as `environment.checked(...)` and `environment.concat(...)`.
    concat = staticmethod(ops.concatenate)

    @staticmethod
    def checked(value: Any) -> Any:
        return current().checked(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise LimitError(f"it has more than {MAX_SOURCE >> 10} K characters")
        tree: nodes.Template = _Rewriter().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        allowed = next((names for kind, names in ATTRIBUTES if isinstance(obj, kind)), frozenset[str]())
        return super().is_safe_attribute(obj, attr, value) and (attr in allowed or isinstance(obj, Namespace))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Raises at once. Jinja's sandbox waits until the value is used, and prints it as empty text."""
        raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__} is not allowed")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replaces `str.format`, whose fields could read any attribute and be of any width."""
        text = getattr(value, "__self__", None)
        if not isinstance(text, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        formatter = Formatter(self)
        if value.__name__ == "format":
            return lambda *args, **kwargs: formatter.vformat(text, args, kwargs)
        return lambda mapping: formatter.vformat(text, (), mapping)

    def getitem(self, obj: Any, argument: Any) -> Any:
        current().tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return current().checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            args = ops.check_method(owner, function.__name__, args, kwargs)
        current().tick()
        return current().checked(super().call(context, function, *args, **kwargs))
