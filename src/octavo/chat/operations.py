"""Template operations with possibly huge results. Each checks the size of its result before it computes it.

The other operations (slicing, adding, sorting, upper case ...) return at most a few times the size of their input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, filters
from jinja2.exceptions import TemplateError
from jinja2.nodes import EvalContext
from jinja2.utils import Cycler, Joiner, Namespace, pass_environment, pass_eval_context
from markupsafe import soft_str

from octavo.chat.limits import ITEM, MAX_BITS, LimitError, current

# The named tuple that Jinja's groupby makes. Jinja has no public name for it.
GROUP: type = type(filters.sync_do_groupby(Environment(), [{"key": 0}], "key")[0])
MAX_INDENT = 16  # of tojson: times the depth, on each line
MAX_SLOW = 1 << 14  # characters for filters whose time grows with the square of the text
MAX_NEEDLE = 100  # characters to strip, or to find from the right: Python's search takes text x needle steps


def multiply(left: Any, right: Any) -> Any:
    """Multiplies numbers, or repeats text or a list."""
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() + right.bit_length())
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            current().allow(current().size(value) * max(times, 0))
    return left * right


def power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() * max(right, 0))
    return left**right


def modulo(left: Any, right: Any) -> Any:
    """Computes a remainder, or formats printf-style."""
    if isinstance(left, str):
        if "*" in left or re.search(r"\d{5}", left):
            raise LimitError("a format asks for a width over 9999")
        # Each field may print its whole argument, and %(name)s may repeat it.
        widths = sum(map(int, re.findall(r"\d+", left)))
        current().allow(widths + left.count("%") * current().size(right))
    return left % right


def concatenate(parts: Iterable[Any]) -> str:
    """Joins the text of all parts: for `~`, and for the results of macros and blocks."""
    texts = [part if isinstance(part, str) else str(part) for part in parts]
    current().allow(sum(map(len, texts)))
    return str(current().checked("".join(texts)))


@pass_eval_context
def join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = _check_join(d, value)
    return filters.sync_do_join(eval_ctx, items, d, attribute)


@pass_eval_context
def replace(eval_ctx: EvalContext, s: str, old: str, new: str, count: int | None = None) -> str:
    _check_replace(str(s), str(old), str(new))
    return filters.do_replace(eval_ctx, s, old, new, count)


def indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    pad = len(width) if isinstance(width, str) else width
    current().allow(len(s) + pad * (s.count("\n") + 1))
    return filters.do_indent(s, width, first, blank)


def round_to(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 100:
        raise LimitError("round: a precision over 100")
    return filters.do_round(value, precision, method)


def batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    current().allow(0 if fill_with is None else ITEM * linecount)
    return filters.do_batch(value, linecount, fill_with)


def slice_into(value: Collection[Any], slices: int, fill_with: Any = None) -> Iterator[list[Any]]:
    current().allow(ITEM * slices)
    return filters.sync_do_slice(value, slices, fill_with)


@pass_environment
def add_up(
    environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0
) -> Any:
    """Jinja's sum, which would copy a growing list for each list that it adds."""
    meter, total = current(), start
    get = filters.make_attrgetter(environment, attribute) if attribute is not None else None
    for item in iterable:
        total = meter.checked(total + (get(item) if get else item))
    return total


def center(value: str, width: int = 80) -> str:
    current().allow(width)
    return filters.do_center(value, width)


def strip_tags(value: str) -> str:
    _check_slow("striptags", value)
    return filters.do_striptags(value)


@pass_environment
def wrap_words(
    environment: Environment,
    s: str,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    _check_slow("wordwrap", s)
    current().allow(len(s) * (1 + len(wrapstring or "")))
    return filters.do_wordwrap(environment, s, width, break_long_words, wrapstring, break_on_hyphens)


def trim(value: str, chars: str | None = None) -> str:
    _check_needle(chars)
    return filters.do_trim(value, chars)


def format_text(value: str, *args: Any, **kwargs: Any) -> Any:
    return modulo(soft_str(value), kwargs or args)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' tojson. Jinja's would escape HTML."""
    current().allow(current().size(value))
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > MAX_INDENT:
        raise LimitError(f"tojson: an indent over {MAX_INDENT}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, check_circular=False
    )
    if indent is None and separators is None:
        return encoder.encode(value)  # in C, and at most 6 characters per input character
    return "".join(map(current().checked, encoder.iterencode(value)))


def strftime_now(format: str) -> str:
    if len(format) > MAX_NEEDLE:
        raise LimitError(f"strftime_now: a format over {MAX_NEEDLE} characters")
    return datetime.now().strftime(format)


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """Creates a dict. The template gets a function, because it could subscript the class."""
    return dict(*args, **kwargs)


def make_cycler(*items: Any) -> Cycler:
    """As `make_dict`."""
    return Cycler(*items)


def make_joiner(sep: str = ", ") -> Joiner:
    """As `make_dict`."""
    return Joiner(sep)


class QuietNamespace(Namespace):
    """A namespace whose repr omits its content, as it may contain itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


def check_method(text: str, name: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Checks a call of a string method. Returns the positional arguments to call it with."""
    if name in ("center", "ljust", "rjust", "zfill") and args:
        current().allow(args[0])
    if name == "expandtabs":
        current().allow(text.count("\t") * (args[0] if args else named.get("tabsize", 8)))
    if name == "join" and args:
        return (_check_join(text, args[0]), *args[1:])
    if name == "replace" and len(args) >= 2:
        _check_replace(text, *args[:2])
    if name in ("strip", "lstrip", "rstrip", "rfind", "rindex", "rsplit", "rpartition"):
        _check_needle(args[0] if args else named.get("sep"))
    return args


def _check_join(separator: Any, value: Iterable[Any]) -> list[Any]:
    meter, items = current(), list(value)
    meter.allow(sum(map(meter.size, items)) + len(str(separator)) * len(items))
    return items


def _check_replace(text: str, old: str, new: str) -> None:
    current().allow(len(text) + text.count(old) * max(len(new) - len(old), 0))


def _check_needle(needle: str | None) -> None:
    if needle is not None and len(needle) > MAX_NEEDLE:
        raise LimitError(f"strip and search from the right take at most {MAX_NEEDLE} characters")


def _check_slow(name: str, text: str) -> None:
    if len(text) > MAX_SLOW:
        raise LimitError(f"{name} takes at most {MAX_SLOW} characters")


def _allow_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise LimitError(f"it made an integer of more than {MAX_BITS} bits")
