"""Turns ids into text as they arrive, in whole characters, at a cost that does not grow with the text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens


class TokenBytes(Protocol):
    """The part of a tokenizer that a Detokenizer needs."""

    @property
    def space_prefix(self) -> bool: ...

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes: ...


class TokenTexts(dict[int, str | None]):
    """Caches each token's text; None if its bytes are not whole characters.

    A token adds this text after any text that ends with a whole character, as UTF-8 has no other state.
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
    """Detokenizes one sequence in pieces: the results of `add` and `flush` join to `decode(all ids)`.

    Bytes of an incomplete character are held back. Invalid bytes become U+FFFD, as the Unicode standard recommends
    (3.9, "maximal subpart") and `bytes.decode` does.

    after: the ids of the prompt that these ids continue. Their text is not returned, but a leading space is then text,
    and a character that they leave incomplete is returned as a whole. None: the ids begin a text, so a leading space is
    dropped if the tokenizer puts one before every text (Llama 2). Sequences of the same tokenizer may share `texts`.
    """

    __slots__ = ("_drop_space", "_held", "_plain", "_texts")

    def __init__(self, texts: TokenTexts, after: Sequence[int] | None = None):
        self._texts = texts
        self._held = b""  # an incomplete character
        self._drop_space = texts.space_prefix and after is None
        self._plain = not self._drop_space  # a token adds its own text: nothing is held, no space to drop
        if after and texts[after[-1]] is None:
            self.add(after[-LONGEST_CHARACTER:])

    def add(self, ids: Iterable[int]) -> str:
        """Returns the text that these ids complete; may be empty."""
        token_bytes = self._texts.token_bytes
        return self._decode(b"".join([token_bytes(token_id) for token_id in ids]), final=False)

    def add_one(self, token_id: int) -> str:
        """`add` for one id: only a look-up if nothing is held."""
        if self._plain and (text := self._texts[token_id]) is not None:
            return text
        return self._decode(self._texts.token_bytes(token_id), final=False)

    def flush(self) -> str:
        """Ends the text. Returns U+FFFD for an incomplete character, or empty text."""
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
