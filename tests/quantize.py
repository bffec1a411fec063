"""From numbers to block encodings, by rounding to the nearest code.

One pass, no search for better scales: right and predictable, for small test models.
Shapes as in octavo/weights/dequantize.py: B blocks of G groups of n values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ConfigError
from octavo.ir import Weight
from octavo.weights.dequantize import CHUNK
from octavo.weights.formats import FORMATS

U8 = NDArray[np.uint8]
Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


def _round_f16(values: Floats) -> tuple[U8, Floats]:
    """[B, k] -> its float16 bytes [B, 2k], and the values that a reader gets back [B, k]."""
    half = values.astype("<f2")
    return half.view(np.uint8).reshape(len(values), -1), half.astype(np.float32)


def _divide(values: Floats, scales: Floats) -> Floats:
    """values / scales, and 0 where the scale is 0: such a group is constant."""
    return np.divide(
        values, scales, out=np.zeros(np.broadcast_shapes(values.shape, scales.shape), np.float32), where=scales != 0
    )


def _codes(values: Floats, low: int, high: int) -> NDArray[np.int16]:
    return np.clip(np.rint(values), low, high).astype(np.int16)


def _pack_nibbles(codes: Ints) -> Ints:
    """[..., 2n] -> [..., n]: the first half in the low nibbles, the second in the high ones."""
    low, high = np.split(codes, 2, axis=-1)
    return low & 15 | (high & 15) << 4


def _pack_pairs(codes: Ints) -> Ints:
    """[..., 4, n] -> [..., n]: 2-bit codes, the first row in the lowest bits."""
    packed: Ints = np.bitwise_or.reduce(codes << np.array([[0], [2], [4], [6]], np.uint8), axis=-2)
    return packed


def _pack_bits(codes: Ints) -> Ints:
    """[..., 8, n] -> [..., n]: 1-bit codes, the first row in bit 0."""
    packed: Ints = np.bitwise_or.reduce(codes << np.arange(8, dtype=np.uint8)[:, None], axis=-2)
    return packed


def _symmetric(x: Floats, levels: int) -> tuple[U8, Ints]:
    """Returns scale bytes [B, 2] and codes + levels [B, n]: x = scale * code, code in -levels .. levels - 1.

    The largest value in magnitude takes the code -levels, the end of the range that has no positive counterpart.
    """
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    raw, scale = _round_f16(peak / -levels)
    return raw, (_codes(_divide(x, scale), -levels, levels - 1) + levels).astype(np.uint8)


def _affine(x: Floats, top: int) -> tuple[U8, Ints]:
    """Scale and minimum bytes [B, 4] and codes [B, n] with x = scale * code + minimum, code in 0 .. top."""
    low = x.min(axis=1, keepdims=True)
    raw, parts = _round_f16(np.concatenate([(x.max(axis=1, keepdims=True) - low) / top, low], axis=1))
    return raw, _codes(_divide(x - parts[:, 1:], parts[:, :1]), 0, top).astype(np.uint8)


def _fifth_bits(codes: Ints) -> Ints:
    """[B, 32] codes of 5 bits -> [B, 4] bytes of their fifth bits."""
    return np.packbits(codes >> 4, axis=1, bitorder="little")


def _q4_0(x: Floats) -> list[Ints]:
    scale, codes = _symmetric(x, 8)
    return [scale, _pack_nibbles(codes)]


def _q4_1(x: Floats) -> list[Ints]:
    scale, codes = _affine(x, 15)
    return [scale, _pack_nibbles(codes)]


def _q5_0(x: Floats) -> list[Ints]:
    scale, codes = _symmetric(x, 16)
    return [scale, _fifth_bits(codes), _pack_nibbles(codes)]


def _q5_1(x: Floats) -> list[Ints]:
    scale, codes = _affine(x, 31)
    return [scale, _fifth_bits(codes), _pack_nibbles(codes)]


def _q8_0(x: Floats) -> list[Ints]:
    raw, scale = _round_f16(np.abs(x).max(axis=1, keepdims=True) / 127)
    return [raw, _codes(_divide(x, scale), -127, 127).astype(np.int8).view(np.uint8)]


def _super_affine(x: Floats, groups: int, top: int, top_scale: int) -> tuple[U8, Ints, Ints, Ints]:
    """x = d * scale * code - dmin * minimum: bytes of (d, dmin) [B, 4], scales and minima [B, G] in 0 .. top_scale,
    codes [B, G, n] in 0 .. top. The range of a group always includes 0, as minima cannot be negative."""
    x = x.reshape(len(x), groups, -1)
    low = np.minimum(x.min(axis=2), 0)
    steps = (np.maximum(x.max(axis=2), 0) - low) / top
    raw, d = _round_f16(np.stack([steps.max(axis=1), -low.min(axis=1)], axis=1) / top_scale)
    scales = _codes(_divide(steps, d[:, :1]), 0, top_scale)
    minima = _codes(_divide(-low, d[:, 1:]), 0, top_scale)
    shifted = x + (d[:, 1:] * minima)[..., None]
    codes = _codes(_divide(shifted, (d[:, :1] * scales)[..., None]), 0, top)
    return raw, scales.astype(np.uint8), minima.astype(np.uint8), codes.astype(np.uint8)


def _super_symmetric(x: Floats, levels: int, scale_levels: int) -> tuple[U8, Ints, Ints]:
    """x = d * scale * code, in 16 groups of 16: bytes of d [B, 2], scales [B, 16] in -scale_levels .. scale_levels - 1
    and codes + levels [B, 256] with code in -levels .. levels - 1."""
    x = x.reshape(len(x), 16, 16)
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=2, keepdims=True), axis=2)[..., 0] / -levels
    largest = np.take_along_axis(peak, np.abs(peak).argmax(axis=1, keepdims=True), axis=1)
    raw, d = _round_f16(largest / -scale_levels)
    scales = _codes(_divide(peak, d), -scale_levels, scale_levels - 1)
    codes = _codes(_divide(x, (d * scales)[..., None]), -levels, levels - 1) + levels
    return raw, scales, codes.astype(np.uint8).reshape(len(x), 256)


def _q2_k(x: Floats) -> list[Ints]:
    d, scales, minima, codes = _super_affine(x, 16, 3, 15)
    return [scales | minima << 4, _pack_pairs(codes.reshape(-1, 2, 4, 32)).reshape(-1, 64), d]


def _q3_k(x: Floats) -> list[Ints]:
    d, signed, codes = _super_symmetric(x, 4, 32)
    scales = (signed + 32).astype(np.uint8)
    high = _pack_bits((codes >> 2).reshape(-1, 8, 32))
    low = _pack_pairs((codes & 3).reshape(-1, 2, 4, 32)).reshape(-1, 64)
    return [high, low, _pack_nibbles(scales), _pack_pairs((scales >> 4).reshape(-1, 4, 4)), d]


def _pack_scales_minima(scales: Ints, minima: Ints) -> Ints:
    """[B, 8] twice, of 6 bits -> [B, 12]; the layout is described in dequantize._scales_minima."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)


def _q4_k(x: Floats) -> list[Ints]:
    d, scales, minima, codes = _super_affine(x, 8, 15, 63)
    return [d, _pack_scales_minima(scales, minima), _pack_nibbles(codes.reshape(-1, 4, 64)).reshape(-1, 128)]


def _q5_k(x: Floats) -> list[Ints]:
    d, scales, minima, codes = _super_affine(x, 8, 31, 63)
    low = _pack_nibbles(codes.reshape(-1, 4, 64)).reshape(-1, 128)
    return [d, _pack_scales_minima(scales, minima), _pack_bits(codes >> 4), low]


def _q6_k(x: Floats) -> list[Ints]:
    d, scales, codes = _super_symmetric(x, 32, 128)
    low = _pack_nibbles(codes.reshape(-1, 2, 128)).reshape(-1, 128)
    high = _pack_pairs((codes >> 4).reshape(-1, 2, 4, 32)).reshape(-1, 64)
    return [low, high, scales.astype(np.int8).view(np.uint8), d]


def _u4(x: Floats) -> list[Ints]:
    """As GPTQ and AWQ choose the range: it includes 0, and the zero point is a code, so that 0 stays 0."""
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)
    raw, scale = _round_f16((high - low) / 15)
    zero = _codes(_divide(-low, scale), 0, 15)
    codes = _codes(_divide(x, scale) + zero, 0, 15).astype(np.uint8)
    return [raw, zero.astype("<f2").view(np.uint8), codes[:, ::2] | codes[:, 1::2] << 4]


def _i8(x: Floats) -> list[Ints]:
    scale = (np.abs(x).max(axis=1, keepdims=True) / 127).astype("<f4")
    return [scale.view(np.uint8), _codes(_divide(x, scale), -127, 127).astype(np.int8).view(np.uint8)]


def _f32(x: Floats) -> list[Ints]:
    return [x.astype("<f4").view(np.uint8)]


def _f16(x: Floats) -> list[Ints]:
    return [x.astype("<f2").view(np.uint8)]


def _bf16(x: Floats) -> list[Ints]:
    """Rounds to nearest, ties to even: adds just under half of the last bit kept, or half when that bit is set."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = np.where(np.isnan(x), bits | 0x400000, bits + (0x7FFF + (bits >> 16 & 1)))
    return [(rounded >> 16).astype("<u2").view(np.uint8)]


QUANTIZE: dict[str, Callable[[Floats], list[Ints]]] = {
    "F32": _f32, "F16": _f16, "BF16": _bf16, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "U4_32": _u4, "U4_64": _u4, "U4_128": _u4, "I8_64": _i8, "I8_128": _i8,
}  # fmt: skip


def quantize(array: NDArray[np.floating], type: str, name: str = "") -> Weight:
    """Encodes an array of shape (..., K) as `type`: the fields of a block, in the file's order, side by side.

    Raises ConfigError for a type without an encoder, or a K that is not a multiple of the type's block.
    """
    if type not in QUANTIZE:
        raise ConfigError(f"cannot quantize to {type!r}: choose one of {', '.join(QUANTIZE)}")
    size = FORMATS[type].block_size
    if array.ndim == 0 or array.shape[-1] % size:
        raise ConfigError(
            f"cannot quantize {name or 'an array'} of shape {array.shape} to {type}: rows must be a multiple of {size}"
        )
    blocks = array.reshape(-1, size)
    data = np.empty((len(blocks), FORMATS[type].block_bytes), np.uint8)
    step = CHUNK // size
    with np.errstate(over="ignore"):
        for start in range(0, len(blocks), step):
            fields = QUANTIZE[type](blocks[start : start + step].astype(np.float32))
            np.concatenate(fields, axis=1, out=data[start : start + step])
    return Weight(name, array.shape, type, data.reshape(-1))
