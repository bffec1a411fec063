"""Structured output: text that must follow a JSON schema, a regular expression, a choice or a grammar (Lark or GBNF).

`Compiler.compile` makes a `Grammar` once, outside the engine's step. Each sequence has a `Matcher`, whose masks say
which tokens may come next. Masks of draft positions follow the drafts, and rejected drafts are rolled back.
Built on llguidance (https://github.com/guidance-ai/llguidance): Earley parsing over derivatives of regular expressions.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from octavo.errors import RequestError, lacking_extra
from octavo.sampling import formats, gbnf
from octavo.sampling_params import StructuredOutputs
from octavo.types import U32, Sequence

FIELD = "structured_outputs"
MAX_TEXT = 128 * 1024  # characters of a schema or grammar
MAX_CHOICES = 1024
MAX_COMPILE_SECONDS = 5.0  # a slower compilation is refused; llguidance's limits end it soon after
MAX_MASK_SECONDS = 0.5  # for one mask: every running sequence waits while it is computed
CACHE_SIZE = 64
MAX_REASON = 300  # characters of an error
# A blank line and an indentation. Without a bound a small model can write white space until its length limit.
JSON_OPTIONS: Any = {"whitespace_flexible": True, "whitespace_pattern": r"(\x0D?\x0A){0,2}[\x20\x09]{0,20}"}


class TokenBytes(Protocol):
    """The part of a tokenizer that the compiler needs."""

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes: ...

    def spell(self, text: str) -> list[int]: ...


class Compiler:
    """Makes grammars for one model's vocabulary. Safe to share between threads."""

    def __init__(self, tokenizer: TokenBytes, vocab_size: int):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._known: OrderedDict[str, Grammar] = OrderedDict()

    def prepare(self) -> None:
        """Builds what all grammars share: a second for 150,000 tokens, for which the first grammar waits otherwise."""
        _ = self._native

    def compile(self, wanted: StructuredOutputs) -> Grammar:
        """Raises RequestError if the schema or grammar is invalid, too large or too slow."""
        source = _source(wanted)
        if (known := self._known.get(source)) is not None:
            return known
        self.prepare()
        start = time.monotonic()
        grammar = Grammar(self._new(source, _is_lark(wanted)), self._end_mask)
        grammar.matcher().mask_after([])  # the first mask builds most of the lexer: here it delays no sequence
        if time.monotonic() - start > MAX_COMPILE_SECONDS:
            raise RequestError(f"{FIELD}: the grammar takes too long to compile: make it simpler", FIELD)
        self._known[source] = grammar
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return grammar

    def _new(self, source: str, placed: bool) -> Any:
        """placed: a place in an error is one in the text that the user wrote."""
        matcher = _llguidance().LLMatcher(self._native, source, log_level=0, limits=_limits())
        if matcher.is_error():
            raise RequestError(f"{FIELD}: {_reason(matcher.get_error(), placed)}", FIELD)
        return matcher

    @cached_property
    def _native(self) -> Any:
        """llguidance's tokenizer."""
        vocabulary: Any = _Vocabulary(self._tokenizer, self._vocab_size)
        return _llguidance().LLTokenizer(vocabulary, self._vocab_size, list(self._ends))

    @property
    def _ends(self) -> tuple[int, ...]:
        return self._tokenizer.eos_ids or (self._vocab_size - 1,)

    @cached_property
    def _end_mask(self) -> U32:
        from octavo.sampling.rules import pack

        return pack(np.array(self._ends, np.int32), self._vocab_size)


class _Vocabulary:
    """The attributes that `LLTokenizer` reads. A tokenizer may have more tokens than the model."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: TokenBytes, size: int):
        self._spell = tokenizer.spell
        self.tokens = [tokenizer.token_bytes(token) for token in range(size)]
        self.special_token_ids = sorted(token for token in tokenizer.special_ids if token < size)
        self.eos_token_id = tokenizer.eos_ids[0] if tokenizer.eos_ids else size - 1

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns tokens of the model whose bytes are exactly `text`, as the tokenizer spells it where it can.

        Where a grammar allows only one text, llguidance allows only the next token of this spelling. If its bytes were
        others, the mask would allow a token that the grammar then refuses.
        """
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        with contextlib.suppress(UnicodeDecodeError):
            ids = self._spell(raw.decode())
            if max(ids, default=0) < len(self.tokens) and b"".join([self.tokens[i] for i in ids]) == raw:
                return ids
        return list(self._longest(raw))

    def _longest(self, raw: bytes) -> Iterator[int]:
        """At each place the longest token. A byte without a token ends the spelling."""
        start = 0
        while start < len(raw):
            sizes = range(min(self._most_bytes, len(raw) - start), 0, -1)
            size = next((size for size in sizes if raw[start : start + size] in self._ids), 0)
            if size == 0:
                return
            yield self._ids[raw[start : start + size]]
            start += size

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {raw: token for token, raw in enumerate(self.tokens) if raw and token not in special}

    @cached_property
    def _most_bytes(self) -> int:
        return max(map(len, self._ids), default=0)


class Grammar:
    """A compiled grammar: the start state of each sequence that must follow it."""

    def __init__(self, start: Any, end_mask: U32):
        self._start = start
        self._end_mask = end_mask

    def matcher(self) -> Matcher:
        return Matcher(self._start.deep_copy(), self._end_mask)


class Matcher:
    """One sequence's state in its grammar: after its known tokens, plus drafts that may be rolled back."""

    def __init__(self, native: Any, end_mask: U32):
        self._native = native
        self._end_mask = end_mask
        self._taken: list[int] = []  # tokens that the native matcher has consumed

    def mask(self, seq: Sequence, position: int) -> U32:
        """[ceil(V / 32)]: the tokens allowed at `position`, which may lie after the sequence's drafts.

        After a draft that the grammar forbids the result does not matter: that draft will be rejected.
        """
        first = seq.num_prompt_tokens
        known, drafts = seq.token_ids[first:position], seq.drafts[: max(0, position - len(seq.token_ids))]
        return self.mask_after([*known, *drafts], len(known))

    def mask_after(self, tokens: list[int], num_known: int = 0) -> U32:
        """The mask after exactly these output tokens, of which `num_known` are final and the others drafts.

        Raises RequestError if a final token breaks the grammar, or the grammar has grown too complex.
        """
        self._move_to(tokens, num_known)
        if self.stopped:
            return self._end_mask
        start = time.monotonic()
        mask = np.frombuffer(self._native.compute_bitmask(), np.uint32)[
            : len(self._end_mask)
        ]  # the last word may be longer than the vocabulary
        self._check()
        if time.monotonic() - start > MAX_MASK_SECONDS:
            raise RequestError(f"{FIELD}: the grammar is too slow to follow: make it simpler", FIELD)
        return mask

    @property
    def stopped(self) -> bool:
        """Whether only the end may follow."""
        return bool(self._native.is_stopped())

    def _move_to(self, tokens: list[int], num_known: int) -> None:
        common = _common_length(self._taken, tokens)
        if common < len(self._taken):
            self._native.rollback(len(self._taken) - common)
        fresh = tokens[common:]
        taken = self._native.try_consume_tokens(fresh) if fresh and not self.stopped else 0
        self._taken = tokens[: common + taken]
        self._check()
        if len(self._taken) < num_known and not self.stopped:
            token = tokens[len(self._taken)]
            raise RequestError(f"{FIELD}: token {token} of the answer breaks the grammar, so the answer ends", FIELD)

    def _check(self) -> None:
        """Raises RequestError if llguidance has given up. It would then call the grammar stopped, and drop it."""
        if self._native.is_error():
            raise RequestError(f"{FIELD}: {_reason(self._native.get_error())}", FIELD)


def _common_length(left: list[int], right: list[int]) -> int:
    """Length of the common prefix. It is almost always all of `left`, so that case is one list comparison."""
    if left == right[: len(left)]:
        return len(left)
    return next((i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), len(right))


def check(wanted: object) -> None:
    """Raises RequestError for structured outputs of the wrong shape or size. Does not compile them."""
    if not isinstance(wanted, StructuredOutputs):
        raise RequestError(f"{FIELD} must be StructuredOutputs, or None; got {type(wanted).__name__}", FIELD)
    given = [name for name in ("json", "regex", "choice", "grammar") if getattr(wanted, name) is not None]
    if len(given) + bool(wanted.json_object) != 1:
        raise RequestError(f"{FIELD} must have exactly one of json, json_object, regex, choice and grammar", FIELD)
    for name in ("regex", "grammar"):
        _check_text(name, getattr(wanted, name))
    if wanted.choice is not None:
        _check_choice(wanted.choice)
    if not isinstance(wanted.json, str | dict | None):
        raise RequestError(f"{FIELD}.json must be a JSON schema: an object, or its text", FIELD)


def _check_text(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT):
        raise RequestError(f"{FIELD}.{name} must be a text of 1 to {MAX_TEXT} characters", FIELD)


def _check_choice(choice: Iterable[object]) -> None:
    texts = list(choice) if isinstance(choice, list | tuple) else []
    if not 0 < len(texts) <= MAX_CHOICES or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(f"{FIELD}.choice must be a list of 1 to {MAX_CHOICES} texts that are not empty", FIELD)


def _llguidance() -> Any:
    """The llguidance module, which the extra "server" installs. Raises ConfigError if it is missing."""
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise lacking_extra(error) or error from None
    return llguidance


def _limits() -> Any:
    return _llguidance().LLParserLimits(initial_lexer_fuel=1_000_000, max_grammar_size=200_000, verbose_errors=False)


def why_unusable(schema: dict[str, Any]) -> str | None:
    """Why no grammar can be made of a JSON schema; None if one can. Needs no vocabulary, and milliseconds."""
    matcher = _llguidance().LLMatcher
    try:
        problem = matcher.validate_grammar(_source(StructuredOutputs(json=schema)), limits=_limits())
    except RequestError as error:
        return str(error).removeprefix(f"{FIELD}: ")
    return _reason(problem) if problem else None


def _source(wanted: StructuredOutputs) -> str:
    """The structured output as an llguidance grammar. Raises RequestError."""
    matcher = _llguidance().LLMatcher
    try:
        if wanted.json_object or wanted.json is not None:
            return _bounded(matcher.grammar_from_json_schema(_schema(wanted), overrides=JSON_OPTIONS))
        if wanted.regex is not None:
            return _bounded(matcher.grammar_from_regex(wanted.regex))
        if wanted.choice is not None:
            return _bounded(matcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, wanted.choice))))
        given = wanted.grammar or ""
        return _bounded(matcher.grammar_from_lark(gbnf.to_lark(given) if gbnf.looks_like(given) else given))
    except (ValueError, RecursionError, UnicodeEncodeError) as error:
        raise RequestError(f"{FIELD}: {_reason(str(error))}", FIELD) from error


def _schema(wanted: StructuredOutputs) -> str:
    if wanted.json_object:
        return '{"type": "object"}'
    if not isinstance(wanted.json, str):
        return json.dumps(formats.without_unknown(wanted.json))
    try:
        schema = json.loads(wanted.json)
    except ValueError as error:
        raise ValueError(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"a JSON schema is an object; this is {wanted.json[:40]!r}")
    return json.dumps(formats.without_unknown(schema)) if '"format"' in wanted.json else wanted.json


def _is_lark(wanted: StructuredOutputs) -> bool:
    return wanted.grammar is not None and not gbnf.looks_like(wanted.grammar)


def _bounded(source: str) -> str:
    if len(source) > 2 * MAX_TEXT:
        raise RequestError(f"{FIELD}: the schema or grammar is longer than {MAX_TEXT} characters", FIELD)
    return source


PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
# Messages of llguidance that are about its own inside.
EXPLAINED = {
    "NoExtensionBias": "no text can follow it: a rule, or a $ref, leads back to itself without an end",
    "oneOf constraints are not supported": "the branches of a oneOf must exclude each other: use anyOf",
    "panic: ": "llguidance cannot read it",
    "lexer error": "Lark has no such token: is a text in quotes or a /regex/ left open?",
}
PATTERN = re.compile(r"regex parse error:\n +(.*)\n[ ^]*\n")
POINTER = re.compile(r"[\s^]*|\s*\d+ \|.*")  # lines that quote the source, or point into it


def _reason(message: str, placed: bool = False) -> str:
    """llguidance's message in one line: without the lines that draw where the mistake is.

    placed: the line and column that it names are those of the user's text.
    """
    lines = message.strip().splitlines()
    drawn = {i for i, line in enumerate(lines) if POINTER.fullmatch(line)}
    drawn |= {i for i in range(1, len(lines) - 1) if lines[i].startswith("  ") and i + 1 in drawn}
    text = " ".join(line.strip() for i, line in enumerate(lines) if i not in drawn)
    quoted = PATTERN.search(message)  # a schema may have many patterns
    where = f"in {quoted[1][:80]!r}: " if quoted and "invalid regex" not in text else ""
    text = text.replace(" (in regex)", "").replace("regex parse error: error: ", f"regex parse error: {where}")
    text = PLACE.sub(r"line \1, column \2: " if placed else "", text)
    for name, meaning in EXPLAINED.items():
        text = re.sub(rf"{name}.*", meaning, text)
    return text[:MAX_REASON] or "the grammar cannot be used"
