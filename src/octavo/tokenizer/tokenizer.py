"""The tokenizer of a model: text to ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Encoder

from octavo.errors import TokenizerError
from octavo.tokenizer import files, gguf
from octavo.tokenizer.detokenize import Detokenizer, TokenTexts
from octavo.tokenizer.fill import FillTokens, find_fill_tokens
from octavo.tokenizer.parts import Parts, encode, without_prefix
from octavo.tokenizer.vocab import Kind


class Tokenizer:
    """Converts text to ids and back. Safe to share between threads.

    vocab_size: number of ids. A model may have embeddings for more (padding), which decode to empty text, or for fewer:
    see `check`.
    eos_ids: tokens that end a text or a turn, the main one first. chat_template: Jinja source, None if there is none.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._bytes: dict[int, bytes] = {}  # token id -> bytes, filled on use
        self.vocab_size = len(parts.vocab.tokens)
        self.bos_id = parts.vocab.bos_id
        self.eos_ids = parts.vocab.eos_ids
        self.unknown_id = parts.vocab.unknown_id
        self.space_prefix = parts.space_prefix
        self.chat_template = parts.chat_template

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], pre: str | None = None) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describes. pre: a pre-tokenizer to use instead of the file's.

        Raises TokenizerError naming the key at fault.
        """
        return cls(gguf.read(metadata, pre))

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a folder with a tokenizer.json, or of that file. Raises TokenizerError naming the file."""
        return cls(files.read(Path(path)))

    def check(self, embeddings: int) -> None:
        """Raises TokenizerError if a token that begins or ends texts is not below `embeddings`.

        Other tokens may lack an embedding (the tokenizer of Gemma 3's text models has one more token, for images). The
        model never generates them, and a prompt with one is refused.
        """
        parts = self._parts
        uses = {"begins a text": parts.prefix_ids, "ends a text or a turn": (*self.eos_ids, *parts.suffix_ids)}
        for use, ids in uses.items():
            if ids and max(ids) >= embeddings:
                raise TokenizerError(
                    f"the tokenizer has {self.vocab_size} tokens but the model has embeddings for {embeddings}: none "
                    f"for token {max(ids)} ({self.token_text(max(ids))!r}), which {use}; use the tokenizer that the "
                    f"model was made with (tokenizer=..., or --tokenizer of `octavo serve`)"
                )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Control tokens: not text, left out by `decode`."""
        return frozenset(self._parts.vocab.ids_of(Kind.CONTROL, Kind.UNKNOWN))

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """The tokens that stand before every text: none, or the beginning-of-text token."""
        return self._parts.prefix_ids

    @cached_property
    def fill(self) -> FillTokens | None:
        """The tokens for fill-in-the-middle; None if the vocabulary has none."""
        return find_fill_tokens(self._parts.vocab.tokens)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Returns the ids of `text`. Raises RequestError for text that is not valid Unicode.

        add_special: put the beginning-of-text token before it if the model wants one, unless the text starts with it
        (as a rendered chat template may).
        parse_special: text like "<|im_end|>" becomes the control token; otherwise it is spelled as plain text.
        """
        parts = self._parts
        ids = encode(parts.encoders.parsing if parse_special else parts.encoders.plain, text)
        if not add_special:
            return ids
        before = list(parts.prefix_ids)
        return (ids if ids[: len(before)] == before else before + ids) + list(parts.suffix_ids)

    def spell(self, text: str, parse_special: bool = False) -> list[int]:
        """Returns the ids of a text inside another: without a space before it.

        Their bytes are those of the text, unless the tokenizer normalises it or cannot spell it. parse_special: see
        `encode`.
        """
        return encode(self._inner[parse_special], text)

    @cached_property
    def _inner(self) -> tuple[Encoder, Encoder]:
        encoders = self._parts.encoders
        return without_prefix(encoders.plain), without_prefix(encoders.parsing)

    def decode(self, ids: Iterable[int], skip_special: bool = True, after: Sequence[int] | None = None) -> str:
        """Returns the text of `ids`, with U+FFFD for invalid UTF-8. after: see Detokenizer."""
        pieces = Detokenizer(TokenTexts(self, skip_special), after)
        return pieces.add(ids) + pieces.flush()

    def token_text(self, token_id: int) -> str:
        """The token as the model file stores it, such as "\\u0120the" or "<0x0A>"."""
        return self._parts.vocab.tokens[token_id]

    def token_name(self, token_id: int) -> str:
        """The token's text inside a text. A part of a character is named as in OpenAI's API: "bytes:\\xf0\\x9f"."""
        raw = self.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
        """Returns the bytes that a token adds to a text; empty for ids outside the vocabulary."""
        if skip_special and token_id in self.special_ids:
            return b""
        found = self._bytes.get(token_id)
        return self._look_up(token_id) if found is None else found

    def _look_up(self, token_id: int) -> bytes:
        vocab = self._parts.vocab
        if not 0 <= token_id < self.vocab_size:
            return b""
        value = self._parts.token_bytes(vocab.tokens[token_id], int(vocab.kinds[token_id]))
        return self._bytes.setdefault(token_id, value)
