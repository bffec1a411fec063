"""Tensor encodings: how many values a block holds and in how many bytes.

GGUF's encodings (ggml's block structs), and Octavo's for what GGUF lacks: groups of 64 and 128 with integer zero
points, as in GPTQ and AWQ. native/pack.h describes their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Format:
    """One encoding. A row of K values is K / block_size consecutive blocks of block_bytes bytes."""

    name: str
    id: int | None  # ggml_type in a GGUF file; None: GGUF cannot hold this encoding
    block_size: int  # values
    block_bytes: int


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("F32", 0, 1, 4),
        Format("F16", 1, 1, 2),
        Format("BF16", 30, 1, 2),
        Format("Q4_0", 2, 32, 2 + 16),  # scale, nibbles
        Format("Q4_1", 3, 32, 2 + 2 + 16),  # scale, minimum, nibbles
        Format("Q5_0", 6, 32, 2 + 4 + 16),  # scale, fifth bits, nibbles
        Format("Q5_1", 7, 32, 2 + 2 + 4 + 16),
        Format("Q8_0", 8, 32, 2 + 32),
        Format("Q2_K", 10, 256, 16 + 64 + 2 + 2),  # 4-bit scales and minima, 2-bit codes, two super-scales
        Format("Q3_K", 11, 256, 32 + 64 + 12 + 2),  # third bits, 2-bit codes, 6-bit scales, super-scale
        Format("Q4_K", 12, 256, 2 + 2 + 12 + 128),  # two super-scales, 6-bit scales and minima, nibbles
        Format("Q5_K", 13, 256, 2 + 2 + 12 + 32 + 128),
        Format("Q6_K", 14, 256, 128 + 64 + 16 + 2),  # nibbles, 2-bit highs, 8-bit scales, super-scale
        Format("IQ4_NL", 20, 32, 2 + 16),  # scale, indices into a table of 16 values
        Format("IQ4_XS", 23, 256, 2 + 2 + 4 + 128),  # super-scale, 6-bit scales, indices
        Format("U4_32", None, 32, 2 + 2 + 16),  # scale, zero point, nibbles
        Format("U4_64", None, 64, 2 + 2 + 32),
        Format("U4_128", None, 128, 2 + 2 + 64),
        Format("I8_64", None, 64, 4 + 64),  # scale, bytes
        Format("I8_128", None, 128, 4 + 128),
    )
}

BY_ID: dict[int, Format] = {f.id: f for f in FORMATS.values() if f.id is not None}
GGUF_TYPES = tuple(f.name for f in BY_ID.values())

UNSUPPORTED: dict[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


def row_bytes(format: Format, columns: int) -> int:
    """Bytes of one row of `columns` values; columns must be a multiple of the block size."""
    assert columns % format.block_size == 0, (format.name, columns)
    return columns // format.block_size * format.block_bytes


def tensor_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of shape (..., rows, columns)."""
    return prod(shape[:-1]) * row_bytes(format, shape[-1])
