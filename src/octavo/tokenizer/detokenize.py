"""Ids to text, as they come: never half a character, and no work that grows with what was said before."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def space_prefix(self) -> bool: ...

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes: ...


class TokenTexts(dict[int, str | None]):
    """The text of each token met so far, None where its bytes are no whole characters.

    Such a text is what the token adds to any text that does not end within a character: UTF-8 has no other state.
    """

    def __init__(self, tokenizer: TokenBytes, skip_special: bool = True):
        super().__init__()
        self.space_prefix = tokenizer.space_prefix
        self.token_bytes: Callable[[int], bytes] = partial(tokenizer.token_bytes, skip_special=skip_special)

    def __missing__(self, token_id: int) -> str | None:
        try:
            text: str | None = self.token_bytes(token_id).decode()
        except UnicodeDecodeError:
            text = None
        self[token_id] = text
        return text


class Detokenizer:
    """The text of one sequence of ids, in pieces: what `add` and `flush` return adds up to `decode(all ids)`.

    Bytes of a character whose end is still to come are kept back; bytes that can be no part of one become U+FFFD, in
    the way of the Unicode standard (3.9, "maximal subpart"), which is also how `bytes.decode` does it.

    continuation: the ids go on from a prompt, so a leading space is text. Otherwise one is dropped where the tokenizer
    puts one before every text (Llama 2). Sequences of the same tokenizer may share `texts`.
    """

    __slots__ = ("_drop_space", "_held", "_plain", "_texts")

    def __init__(self, texts: TokenTexts, continuation: bool = False):
        self._texts = texts
        self._held = b""  # the beginning of a character
        self._drop_space = texts.space_prefix and not continuation
        self._plain = not self._drop_space  # a token adds its own text: nothing is held, and no space is to be dropped

    def add(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; may be empty."""
        token_bytes = self._texts.token_bytes
        return self._decode(b"".join([token_bytes(token_id) for token_id in ids]), final=False)

    def add_one(self, token_id: int) -> str:
        """`add` for one id: a look-up where nothing is held."""
        if self._plain and (text := self._texts[token_id]) is not None:
            return text
        return self._decode(self._texts.token_bytes(token_id), final=False)

    def flush(self) -> str:
        """What was kept back, now that nothing more comes: U+FFFD for an unfinished character, or nothing."""
        return self._decode(b"", final=True)

    def _decode(self, more: bytes, final: bool) -> str:
        seen = self._held + more
        text, used = codecs.utf_8_decode(seen, "replace", final)
        self._held = seen[used:]
        if self._drop_space and text:
            self._drop_space = False
            text = text.removeprefix(" ")
        self._plain = not (self._held or self._drop_space)
        return text
