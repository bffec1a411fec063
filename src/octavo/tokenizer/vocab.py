"""A vocabulary from a GGUF file: the tokens, their kinds, and the ids that mark beginnings and ends.

Source: the GGUF specification (ggml/docs/gguf.md), "Tokenizer"; token kinds are SentencePiece's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import TokenizerError

KEY = "tokenizer.ggml."

# Control tokens that end a turn or a text in several model families. Files often name only one end token. A chat model
# that emits another one would then run to the length limit.
END_TEXTS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
)


class Kind(enum.IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, eq=False, slots=True)
class Vocabulary:
    """tokens[id] is a token's text as stored. kinds: [len(tokens)], values of `Kind`. eos_ids: the main one first."""

    tokens: list[str]
    kinds: NDArray[np.uint8]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    unknown_id: int | None

    def ids(self) -> dict[str, int]:
        """Returns text -> id. If tokens have the same text, the last one counts."""
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    def ids_of(self, *kinds: Kind) -> list[int]:
        """Returns the ids of the tokens of these kinds, in ascending order."""
        found: list[int] = np.flatnonzero(np.isin(self.kinds, kinds)).tolist()
        return found

    def surround(self, metadata: Mapping[str, Any], bos: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the ids to put before and after a text. bos: the family's default for a file without the flag."""
        before = (self.bos_id,) if self.bos_id is not None and flag(metadata, "add_bos_token", bos) else ()
        after = self.eos_ids[:1] if flag(metadata, "add_eos_token", False) else ()
        return before, after


def read_vocabulary(metadata: Mapping[str, Any], unstated: Mapping[str, int]) -> Vocabulary:
    """The vocabulary in a GGUF file's metadata. unstated: the ids of absent keys, if they are control tokens.

    Raises TokenizerError naming the key at fault.
    """
    tokens = string_list(metadata, "tokens")
    kinds = _kinds(metadata, len(tokens))

    def named(name: str) -> int | None:
        default = unstated.get(name, len(tokens))
        special = default < len(tokens) and kinds[default] in (Kind.CONTROL, Kind.UNKNOWN)
        return default if special and KEY + name not in metadata else token_id(metadata, name, len(tokens))

    return Vocabulary(
        tokens,
        kinds,
        bos_id=named("bos_token_id"),
        eos_ids=end_ids(tokens, kinds, list(map(named, ("eos_token_id", "eot_token_id", "eom_token_id")))),
        unknown_id=named("unknown_token_id"),
    )


def string_list(metadata: Mapping[str, Any], name: str) -> list[str]:
    """Returns a required array of strings, as a copy: the file may be closed before the tokenizer."""
    values = metadata.get(KEY + name)
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or len(values) == 0:
        raise TokenizerError(f"{KEY}{name}: an array of strings is needed, the file has {_describe(values)}")
    texts = list(values)
    if not all(map(str.__instancecheck__, texts)):
        raise TokenizerError(f"{KEY}{name}: not all of its items are strings")
    return texts


def token_id(metadata: Mapping[str, Any], name: str, vocab_size: int) -> int | None:
    """Returns an optional id. Files use 2^32 - 1 for "none"; other values out of range raise TokenizerError."""
    value = metadata.get(KEY + name)
    if value is None or value in (-1, 0xFFFFFFFF):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise TokenizerError(f"{KEY}{name}: {value!r} is not the id of one of {vocab_size} tokens")
    return value


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(KEY + name, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{KEY}{name}: true or false is needed, the file has {_describe(value)}")
    return value


def end_ids(tokens: Sequence[str], kinds: NDArray[np.uint8], stated: Sequence[int | None]) -> tuple[int, ...]:
    """Returns the stated ids, then the control tokens with a well-known end text, without duplicates."""
    named = (i for i in np.flatnonzero(kinds == Kind.CONTROL).tolist() if tokens[i] in END_TEXTS)
    return tuple(dict.fromkeys([*(i for i in stated if i is not None), *named]))


def _kinds(metadata: Mapping[str, Any], count: int) -> NDArray[np.uint8]:
    values = metadata.get(KEY + "token_type")
    if values is None:
        return np.full(count, Kind.NORMAL, np.uint8)
    kinds = np.asarray(values)
    if kinds.shape != (count,) or kinds.dtype.kind not in "iu":
        raise TokenizerError(f"{KEY}token_type: {count} integers are needed (one a token), not {_describe(values)}")
    return np.where((kinds >= Kind.NORMAL) & (kinds <= Kind.BYTE), kinds, Kind.NORMAL).astype(np.uint8)


def _describe(value: object) -> str:
    if value is None:
        return "none"
    size = f" of {len(value)}" if isinstance(value, (Sequence, np.ndarray)) else ""
    return f"a value of type {type(value).__name__}{size}"
