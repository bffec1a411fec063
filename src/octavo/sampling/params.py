"""Sampling parameters: `check` and `check_ids` refuse what is out of range. (For `build` see arrays.py.)"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from octavo.errors import RequestError
from octavo.kv.eviction import FORMS, parse
from octavo.sampling import grammar
from octavo.sampling.arrays import build
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.types import Request

__all__ = ["build", "check", "check_ids", "check_range", "check_type"]

MAX_ANSWERS = 128
MAX_LOGPROBS = 20
MAX_STRINGS = 64
MAX_STRING_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Span:
    """A number's allowed range. `whole`: integers only. `above`: the low end itself is not allowed."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    optional: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        low = f"above {self.low} and at most" if self.above else f"from {self.low} to"
        limits = f"of at least {self.low}" if self.high == math.inf else f"{low} {self.high}"
        return f"{kind} {limits}" + (", or None" if self.optional else "")

    def holds(self, value: object) -> bool:
        if value is None:
            return self.optional
        kinds = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return bool((self.low < value if self.above else self.low <= value) and value <= self.high)  # NaN: never


NUMBERS = {
    "n": Span(1, MAX_ANSWERS, whole=True),
    "temperature": Span(0, 100),
    "top_p": Span(0, 1, above=True),
    "top_k": Span(-1, 2**63 - 1, whole=True),
    "min_p": Span(0, 1),
    "typical_p": Span(0, 1, above=True),
    "seed": Span(-(2**63), 2**64 - 1, whole=True, optional=True),
    "presence_penalty": Span(-2, 2),
    "frequency_penalty": Span(-2, 2),
    "repetition_penalty": Span(0.01, 100),
    "max_tokens": Span(0, whole=True, optional=True),
    "min_tokens": Span(0, whole=True),
    "logprobs": Span(0, MAX_LOGPROBS, whole=True, optional=True),
    "prompt_logprobs": Span(0, MAX_LOGPROBS, whole=True, optional=True),
    "truncate_prompt_tokens": Span(-1, whole=True, optional=True),
}
FLAGS = (
    "detokenize",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)
BIAS = Span(-100, 100)


def check(params: SamplingParams, vocab_size: int) -> SamplingParams:
    """The same parameters in normal form: lists become tuples, a single string a tuple of one, None an empty tuple.

    Raises RequestError for the first wrong field, naming it and its allowed values.
    """
    check_type(params)
    for name, span in NUMBERS.items():
        _require(span.holds(getattr(params, name)), params, name, str(span))
    for name in FLAGS:
        _require(isinstance(getattr(params, name), bool), params, name, "True or False")
    if (most := params.max_tokens) is not None:
        _require(params.min_tokens <= most, params, "min_tokens", f"at most max_tokens, {most}")
    _require(params.truncate_prompt_tokens != 0, params, "truncate_prompt_tokens", "-1 or at least 1")
    _check_eviction(params)
    kinds = ", ".join(map(str, RequestOutputKind))
    _require(isinstance(params.output_kind, RequestOutputKind), params, "output_kind", f"one of {kinds}")
    if params.structured_outputs is not None:
        grammar.check(params.structured_outputs)
    checked = dataclasses.replace(params, **_tuples(params))
    _require(checked.detokenize or not checked.stop, params, "detokenize", "True, because stop strings need the text")
    _check_tokens(checked, Span(0, vocab_size - 1, whole=True))
    return checked


def _check_eviction(params: SamplingParams) -> None:
    _require(isinstance(params.kv_eviction, str | None), params, "kv_eviction", FORMS)
    try:
        parse(params.kv_eviction)
    except ValueError as error:
        raise RequestError(f"kv_eviction {error}", "kv_eviction") from None


def check_type(params: object) -> None:
    """Raises RequestError for what is no SamplingParams."""
    if not isinstance(params, SamplingParams):
        raise RequestError(f"sampling_params must be SamplingParams, not {type(params).__name__}", "sampling_params")


def check_ids(request: Request, vocab_size: int) -> None:
    """Raises RequestError for a token id without an embedding in the model. Checks each id once.

    Ids come from users and from tokenizers, which may have more tokens than the model. Backends index arrays with them.
    """
    params = request.params
    named: dict[str, Collection[int]] = {
        "prompt": request.prompt_token_ids,
        "eos_token_ids": request.eos_token_ids,
        "bad_words": tuple(chain.from_iterable(request.bad_word_ids)),
        "stop_token_ids": params.stop_token_ids,
        "allowed_token_ids": params.allowed_token_ids or (),
        "logit_bias": params.logit_bias,
    }
    for name, ids in named.items():
        check_range(name, ids, vocab_size)


def check_range(name: str, ids: Collection[int], vocab_size: int) -> None:
    """`check_ids` for the ids of one field."""
    for extreme in (min(ids), max(ids)) if ids else ():
        if not 0 <= extreme < vocab_size:
            raise RequestError(f"{name} must be token ids of this model, 0 to {vocab_size - 1}; got {extreme}", name)


def _require(holds: bool, params: SamplingParams, name: str, allowed: str) -> None:
    if not holds:
        value = repr(getattr(params, name))
        shown = value if len(value) <= 60 else value[:57] + "..."
        raise RequestError(f"{name} must be {allowed}; got {shown}", name)


def _tuples(params: SamplingParams) -> dict[str, Any]:
    return {
        "stop": _strings(params, "stop"),
        "bad_words": _strings(params, "bad_words"),
        "stop_token_ids": _ids(params, "stop_token_ids") or (),
        "allowed_token_ids": _ids(params, "allowed_token_ids"),
        "logit_bias": _copy(params.logit_bias),
    }


def _copy(bias: Mapping[int, float] | None) -> Any:
    """A copy, so that the caller may change its own; what is no map is left for `_check_tokens` to refuse."""
    return dict(bias or {}) if bias is None or isinstance(bias, Mapping) else bias


def _ids(params: SamplingParams, name: str) -> tuple[int, ...] | None:
    value = getattr(params, name)
    listed = isinstance(value, list | tuple | set | frozenset | range | np.ndarray)
    _require(value is None or listed, params, name, "a list of token ids, or None")
    return None if value is None else tuple(value)


def _strings(params: SamplingParams, name: str) -> tuple[str, ...]:
    value = getattr(params, name)
    if value is None:
        return ()
    rule = f"a string or a list of at most {MAX_STRINGS} strings of 1 to {MAX_STRING_LENGTH} characters"
    _require(isinstance(value, str | list | tuple), params, name, rule)
    strings = (value,) if isinstance(value, str) else tuple(value)
    fit = all(isinstance(text, str) and 1 <= len(text) <= MAX_STRING_LENGTH for text in strings)
    _require(fit and len(strings) <= MAX_STRINGS, params, name, rule)
    return strings


def _check_tokens(params: SamplingParams, ids: Span) -> None:
    rule = f"token ids of this model, {ids.low} to {ids.high}"
    _require(all(map(ids.holds, params.stop_token_ids)), params, "stop_token_ids", rule)
    if params.allowed_token_ids is not None:
        known = len(params.allowed_token_ids) > 0 and all(map(ids.holds, params.allowed_token_ids))
        _require(known, params, "allowed_token_ids", f"one or more {rule}, or None")
    bias = params.logit_bias
    known = isinstance(bias, Mapping) and all(map(ids.holds, bias)) and all(map(BIAS.holds, bias.values()))
    _require(known, params, "logit_bias", f"a map of {rule}, to {BIAS}")
