"""Logprobs in OpenAI's two formats and in vLLM's. `Tokenizer.token_name` says what a token is called in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from octavo.outputs import Logprob, LogprobMap
from octavo.tokenizer import Detokenizer, Tokenizer, TokenTexts

NOTHING = -9999.0  # replaces -inf, which JSON does not have; OpenAI uses the same value


def chat(maps: list[LogprobMap], token_ids: list[int], top: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the chat API's format: {"content": [...], "refusal": null}. The tokens' bytes join to the text's."""

    def entry(token: int, value: Logprob) -> dict[str, Any]:
        raw = list(tokenizer.token_bytes(token))
        return {"token": tokenizer.token_name(token), "logprob": _finite(value.logprob), "bytes": raw}

    def row(found: LogprobMap, token: int) -> dict[str, Any]:
        ranked = sorted(found.items(), key=lambda item: item[1].rank or 0)
        return entry(token, found[token]) | {
            "top_logprobs": [entry(*item) for item in ranked if (item[1].rank or 0) <= top]
        }

    return {"content": [row(*pair) for pair in zip(maps, token_ids, strict=True)], "refusal": None}


class CompletionLogprobs:
    """The completions API's format, for one choice: parallel lists, whole or in pieces.

    after: the prompt that the tokens continue; None if they begin with the prompt itself (echo).
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] | None, skip_special: bool = True):
        self._tokenizer = tokenizer
        self._words = Detokenizer(TokenTexts(tokenizer, skip_special), after)
        self._offset = 0  # characters of text before the next token

    def add(self, maps: Sequence[LogprobMap | None], token_ids: list[int], top: int, text: str = "") -> dict[str, Any]:
        """Returns the lists for the next tokens. Offsets are in the text that the API returns.

        text: that text from its beginning, if control tokens can be in it although they are skipped (in a prompt).
        """
        tokens, values, tops, offsets = [], [], [], []
        for found, token in zip(maps, token_ids, strict=True):
            offsets.append(self._offset)
            name = self._place(token, text)
            tokens.append(name(token))
            values.append(None if found is None else _finite(found[token].logprob))
            tops.append(None if found is None or not top else _top(found, token, top, name))
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _place(self, token: int, text: str) -> Callable[[int], str]:
        """Moves the offset behind the token. Returns what tokens are called at its place: the first of a text may lack
        the space that the tokenizer put before it."""
        name = self._tokenizer.token_name(token)
        piece = self._words.add_one(token)
        if not piece and token in self._tokenizer.special_ids and text.startswith(name, self._offset):
            piece = name
        self._offset += len(piece)
        if name == " " + piece:
            return lambda other: self._tokenizer.token_name(other).removeprefix(" ")
        return self._tokenizer.token_name


def _top(found: LogprobMap, chosen: int, top: int, name: Callable[[int], str]) -> dict[str, float]:
    """The chosen token and the `top` most likely. A token whose name another has already is called by its id."""
    made: dict[str, float] = {}
    for token, entry in found.items():
        if token == chosen or (entry.rank or 0) <= top:
            key = name(token)
            made[f"token_id:{token}" if key in made else key] = _finite(entry.logprob)
    return made


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
