"""Dequantises block encodings in numpy: the reference for every packed kernel.

Every quantised format is the same formula, value = scale * code + offset, with a scale and an offset for each group of
values; they differ in how the bits lie in a block. `unpack` gives the three parts, `dequantize` multiplies them out. A
scale (or an offset) is a number of the block, or that times a small number of the group.
Source: ggml's `dequantize_row_*` (ggml-quants.c); results are bitwise equal. Octavo's own encodings are described in
native/pack.h.

Shapes: B blocks, each of G groups of n values (G * n = the format's block size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.ir import ROWS, Weight
from octavo.weights.formats import FORMATS

U8 = NDArray[np.uint8]
Ints = NDArray[np.integer[Any]]  # bit arithmetic on U8, which stays U8 but not to the type checker
I8 = NDArray[np.int8]
F32 = NDArray[np.float32]
Factors = tuple[F32, Any]  # a block's number [B, 1], and its groups' [B, G] (integers or float32) or None (all one)
Parts = tuple[I8, Factors, Factors | None]  # codes [B, G, n], scales, offsets or None (all zero)

CHUNK = 1 << 17  # values at a time: temporaries fit in the cache and are small compared with the result

# The 16 levels of IQ4: denser around zero, where weights are (ggml's kvalues_iq4nl).
IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _f16(raw: U8) -> F32:
    """[B, 2k] bytes -> [B, k]."""
    return raw.view("<f2").astype(np.float32)


def _nibbles(raw: Ints) -> Ints:
    """[..., n] -> [..., 2n]: the low nibbles of all bytes, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _bit_pairs(raw: Ints) -> Ints:
    """[..., n] -> [..., 4, n]: bits 0-1 of all bytes, then bits 2-3, 4-5, 6-7."""
    return (raw[..., None, :] >> np.array([[0], [2], [4], [6]], np.uint8)) & 3


def _bits(raw: Ints) -> Ints:
    """[..., n] -> [..., 8, n]: bit 0 of all bytes, then bit 1, ..."""
    return (raw[..., None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1


def _fifth_bits(raw: U8) -> Ints:
    """[B, 4] -> [B, 32]: bit i is the fifth bit of value i, at its place (16)."""
    return np.unpackbits(raw, axis=-1, bitorder="little") << 4


def _q4_0(b: U8) -> Parts:
    return (_nibbles(b[:, 2:]).view(np.int8) - 8)[:, None], (_f16(b[:, :2]), None), None


def _q4_1(b: U8) -> Parts:
    return _nibbles(b[:, 4:]).view(np.int8)[:, None], (_f16(b[:, :2]), None), (_f16(b[:, 2:4]), None)


def _q5_0(b: U8) -> Parts:
    codes = _nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6])
    return (codes.view(np.int8) - 16)[:, None], (_f16(b[:, :2]), None), None


def _q5_1(b: U8) -> Parts:
    codes = _nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8])
    return codes.view(np.int8)[:, None], (_f16(b[:, :2]), None), (_f16(b[:, 2:4]), None)


def _q8_0(b: U8) -> Parts:
    return b[:, None, 2:].view(np.int8), (_f16(b[:, :2]), None), None


def _q2_k(b: U8) -> Parts:
    scales, d, dmin = b[:, :16], _f16(b[:, 80:82]), _f16(b[:, 82:84])
    codes = _bit_pairs(b[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    return codes.view(np.int8), (d, scales & 15), (-dmin, scales >> 4)


def _q3_k(b: U8) -> Parts:
    low = _bit_pairs(b[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 8, 32)
    codes = (low | _bits(b[:, :32]) << 2).view(np.int8) - 4
    scales = _nibbles(b[:, 96:104]) | _bit_pairs(b[:, 104:108]).reshape(-1, 16) << 4
    return codes.reshape(-1, 16, 16), (_f16(b[:, 108:]), scales.view(np.int8) - 32), None


def _scales_minima(b: U8) -> tuple[Ints, Ints]:
    """[B, 12] -> scales and minima [B, 8] of 6 bits: 0-3 in the low bits of bytes 0-3 and 4-7, the others in the
    nibbles of bytes 8-11 below the top two bits of bytes 0-7."""
    first, second, third = b[:, :4], b[:, 4:8], b[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=-1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)
    return scales, minima


def _q4_k(b: U8) -> Parts:
    scales, minima = _scales_minima(b[:, 4:16])
    codes = _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return codes.view(np.int8), (_f16(b[:, :2]), scales), (-_f16(b[:, 2:4]), minima)


def _q5_k(b: U8) -> Parts:
    scales, minima = _scales_minima(b[:, 4:16])
    codes = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | _bits(b[:, 16:48]) << 4
    return codes.view(np.int8), (_f16(b[:, :2]), scales), (-_f16(b[:, 2:4]), minima)


def _q6_k(b: U8) -> Parts:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    high = _bit_pairs(b[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 256)
    codes = (low | high << 4).view(np.int8) - 32
    return codes.reshape(-1, 16, 16), (_f16(b[:, 208:]), b[:, 192:208].view(np.int8)), None


def _iq4_nl(b: U8) -> Parts:
    return IQ4_LEVELS[_nibbles(b[:, 2:])][:, None], (_f16(b[:, :2]), None), None


def _iq4_xs(b: U8) -> Parts:
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    high = np.stack([b[:, 2:4] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(-1, 8)
    scales = (low | high << 4).view(np.int8) - 32
    codes = IQ4_LEVELS[_nibbles(b[:, 8:].reshape(-1, 8, 16))]
    return codes, (_f16(b[:, :2]), scales), None


def _u4(b: U8) -> Parts:
    codes = np.stack([b[:, 4:] & 15, b[:, 4:] >> 4], axis=-1).reshape(len(b), 1, -1)
    scale = _f16(b[:, :2])
    return codes.view(np.int8), (scale, None), (-scale, _f16(b[:, 2:4]))


def _i8(b: U8) -> Parts:
    return b[:, None, 4:].view(np.int8), (b[:, :4].view("<f4"), None), None


UNPACK: dict[str, Callable[[U8], Parts]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
    "U4_32": _u4, "U4_64": _u4, "U4_128": _u4, "I8_64": _i8, "I8_128": _i8,
}  # fmt: skip


def unpack(type: str, blocks: U8) -> Parts:
    """The parts of blocks [B, block_bytes] of a quantised type."""
    return UNPACK[type](blocks)


def _product(factors: Factors) -> F32:
    """[B, G]"""
    outer, inner = factors
    return outer if inner is None else np.multiply(outer, inner, dtype=np.float32)


def _multiply_out(type: str, blocks: U8, out: F32) -> None:
    """Writes the values of blocks [B, block_bytes] to out [B, block_size]."""
    if type == "F32":
        out[:] = blocks.view("<f4")
    elif type == "F16":
        out[:] = blocks.view("<f2")
    elif type == "BF16":  # the upper half of a float32
        out.view(np.uint32)[:] = blocks.view("<u2").astype(np.uint32) << 16
    else:
        codes, scales, offsets = unpack(type, blocks)
        groups = out.reshape(codes.shape)
        np.multiply(codes, _product(scales)[..., None], out=groups, dtype=np.float32)
        if offsets is not None:
            groups += _product(offsets)[..., None]


def _dequantize_blocks(type: str, blocks: U8) -> F32:
    size = FORMATS[type].block_size
    out = np.empty((len(blocks), size), np.float32)
    step = CHUNK // size
    with np.errstate(all="ignore"):  # a corrupt scale gives inf or NaN, which the engine reports if they reach a logit
        for start in range(0, len(blocks), step):
            _multiply_out(type, blocks[start : start + step], out[start : start + step])
    return out


def dequantize(weight: Weight) -> F32:
    """All values of a weight as float32, of shape weight.shape."""
    assert weight.layout == ROWS, weight.name
    blocks = weight.data.reshape(-1, FORMATS[weight.type].block_bytes)
    return _dequantize_blocks(weight.type, blocks).reshape(weight.shape)


def dequantize_rows(weight: Weight, rows: slice | NDArray[np.integer]) -> F32:
    """The given rows of a weight of shape (N, K): [len(rows), K] float32. Touches no other row of the file.

    Raises IndexError when an index is outside 0 .. N-1 (numpy's rule: negative ones count from the end).
    """
    assert weight.layout == ROWS, weight.name
    num_rows, columns = weight.shape
    data = weight.data.reshape(num_rows, -1)[rows]
    return _dequantize_blocks(weight.type, data.reshape(-1, FORMATS[weight.type].block_bytes)).reshape(-1, columns)
