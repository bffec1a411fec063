"""Ids to text, as they come: never half a character, and no work that grows with what was said before."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def space_prefix(self) -> bool: ...

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes: ...


class Detokenizer:
    """The text of one sequence of ids, in pieces: what `add` and `flush` return adds up to `decode(all ids)`.

    Bytes of a character whose end is still to come are kept back; bytes that can be no part of one become U+FFFD, in
    the way of the Unicode standard (3.9, "maximal subpart"), which is also how `bytes.decode` does it.

    continuation: the ids go on from a prompt, so a leading space is text. Otherwise one is dropped where the tokenizer
    puts one before every text (Llama 2).
    """

    def __init__(self, tokenizer: TokenBytes, skip_special: bool = True, continuation: bool = False):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = tokenizer.space_prefix and not continuation

    def add(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; may be empty."""
        token_bytes, skip = self._tokenizer.token_bytes, self._skip_special
        return self._tidy(self._decoder.decode(b"".join([token_bytes(i, skip) for i in ids])))

    def flush(self) -> str:
        """What was kept back, now that nothing more comes: U+FFFD for an unfinished character, or nothing."""
        return self._tidy(self._decoder.decode(b"", final=True))

    def _tidy(self, text: str) -> str:
        if self._drop_space and text:
            self._drop_space = False
            return text.removeprefix(" ")
        return text
