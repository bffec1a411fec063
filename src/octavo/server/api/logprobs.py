"""Logprobs in OpenAI's two formats and in vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from octavo.outputs import Logprob, LogprobMap

NOTHING = -9999.0  # replaces -inf, which JSON does not have; OpenAI uses the same value


def chat(maps: list[LogprobMap], token_ids: list[int], top: int) -> dict[str, Any]:
    """Returns the chat API's format: {"content": [...], "refusal": null}."""
    rows = zip(maps, token_ids, strict=True)
    return {"content": [_row(found, token, top) for found, token in rows], "refusal": None}


def _row(found: LogprobMap, token: int, top: int) -> dict[str, Any]:
    ranked = sorted(found.values(), key=lambda entry: entry.rank or 0)
    return _entry(found[token]) | {"top_logprobs": [_entry(entry) for entry in ranked if (entry.rank or 0) <= top]}


def _entry(entry: Logprob) -> dict[str, Any]:
    text = entry.decoded_token or ""
    return {"token": text, "logprob": _finite(entry.logprob), "bytes": list(text.encode("utf-8"))}


def completions(
    maps: Sequence[LogprobMap | None], token_ids: list[int], top: int, offset: int, token_text: Callable[[int], str]
) -> dict[str, Any]:
    """Returns the completions API's format: parallel lists.

    offset: characters of text before the first token. token_text: gives the text of the prompt's first token, which has
    no logprob.
    """
    tokens, values, tops, offsets = [], [], [], []
    for found, token in zip(maps, token_ids, strict=True):
        entry = None if found is None else found[token]
        text = (entry.decoded_token or "") if entry else token_text(token)
        tokens.append(text)
        values.append(None if entry is None else _finite(entry.logprob))
        tops.append(None if found is None or not top else _ranked(found, top))
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _ranked(found: LogprobMap, top: int) -> dict[str, float]:
    return {e.decoded_token or "": _finite(e.logprob) for e in found.values() if (e.rank or 0) <= top}


def ranked(found: LogprobMap | None) -> dict[str, Any] | None:
    """Returns one entry of vLLM's `prompt_logprobs`: logprobs by token id."""
    if found is None:
        return None
    return {
        str(token): {"logprob": _finite(e.logprob), "rank": e.rank, "decoded_token": e.decoded_token}
        for token, e in found.items()
    }


def _finite(value: float) -> float:
    return max(value, NOTHING)
