"""Small tokenizers of each kind, as GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.tokenizer.bpe import BYTE_OF
from octavo.tokenizer.vocab import Kind

MERGES = (
    "h e",
    "l l",
    "he ll",
    "hell o",
    "\u0120 w",
    "o r",
    "\u0120w or",
    "l d",
    "\u0120wor ld",
    "\u0120 hello",
    "1 2",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PIECES = (
    "he",
    "ll",
    "hell",
    "hello",
    "\u2581hello",
    "\u2581w",
    "or",
    "wor",
    "\u2581wor",
    "\u2581world",
    "ld",
    "\u2581\u2581",
)


def byte_level(pre: str = "gpt-2", merges: Sequence[str] = MERGES, **extra: Any) -> dict[str, Any]:
    """256 bytes, merges, three control tokens and a user-defined one."""
    tokens = [*BYTE_OF, *(merge.replace(" ", "") for merge in merges)]
    kinds = [Kind.NORMAL] * len(tokens) + [Kind.CONTROL] * len(SPECIAL) + [Kind.USER_DEFINED]
    return with_keys(
        {
            "model": "gpt2",
            "pre": pre,
            "tokens": [*tokens, *SPECIAL, "<tool_call>"],
            "merges": list(merges),
            "token_type": kinds,
            "bos_token_id": len(tokens) + 1,
            "eos_token_id": len(tokens) + 2,
        },
        extra,
    )


def sentencepiece(pieces: Sequence[str] = PIECES, **extra: Any) -> dict[str, Any]:
    """Control tokens, 256 bytes, a user-defined run, the letters, and `pieces`, the first of them the best."""
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz.", "é"]
    normal = [*pieces, *(letter for letter in letters if letter not in pieces)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\n\n", *normal]
    kinds = [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL, *[Kind.BYTE] * 256, Kind.USER_DEFINED]
    return with_keys(
        {
            "model": "llama",
            "tokens": tokens,
            "scores": [0.0] * len(kinds) + [-float(i) for i in range(len(normal))],
            "token_type": kinds + [Kind.NORMAL] * len(normal),
            "unknown_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        extra,
    )


def with_keys(values: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in {**values, **extra}.items() if value is not None}
