"""How kernels read each encoding: a table, and the tensors' arrangement in numpy (the kernels' twin: `decode`).

value = (outer * inner) * (code - zero) + offset_outer * offset_inner, as in weights/dequantize.py; a factor that an
encoding does not have is left out. Codes are split into planes of 8, 4, 2 or 1 bits, the lowest first, so a code takes
as many bits as in the file. In a plane, 32 consecutive bytes hold 32 * 8 / bits columns: bits
[bits * j, bits * (j + 1)) of byte i are the code of column 32 j + i. So 32 columns of a plane are 32 bytes and a shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.ir import Weight
from octavo.types import F32
from octavo.weights.dequantize import IQ4_LEVELS, unpack
from octavo.weights.formats import FORMATS

U8 = NDArray[np.uint8]
STEP = 32  # columns that a kernel decodes at once
SUPERBLOCK = 256  # K is padded to whole ones, so that every plane ends on a whole byte


class Encoding(NamedTuple):
    """A kernel's constants. planes: bits of the first and the second plane (0: none). group: columns that share the
    inner factors; block: those that share the outer ones. zero: the code of value 0. levels: codes are indices of
    IQ4's table."""

    planes: tuple[int, int]
    group: int
    block: int
    zero: int = 0
    levels: bool = False


ENCODINGS: dict[str, Encoding] = {
    "Q4_0": Encoding((4, 0), 32, 32, zero=8),
    "Q4_1": Encoding((4, 0), 32, 32),
    "Q5_0": Encoding((4, 1), 32, 32, zero=16),
    "Q5_1": Encoding((4, 1), 32, 32),
    "Q8_0": Encoding((8, 0), 32, 32, zero=128),
    "Q2_K": Encoding((2, 0), 16, 256),
    "Q3_K": Encoding((2, 1), 16, 256, zero=4),
    "Q4_K": Encoding((4, 0), 32, 256),
    "Q5_K": Encoding((4, 1), 32, 256),
    "Q6_K": Encoding((4, 2), 16, 256, zero=32),
    "IQ4_NL": Encoding((4, 0), 32, 32, levels=True),
    "IQ4_XS": Encoding((4, 0), 32, 256, levels=True),
    "U4_32": Encoding((4, 0), 32, 32),
    "U4_64": Encoding((4, 0), 64, 64),
    "U4_128": Encoding((4, 0), 128, 128),
    "I8_64": Encoding((8, 0), 64, 64, zero=128),
    "I8_128": Encoding((8, 0), 128, 128, zero=128),
}
DENSE = ("F32", "F16", "BF16")


class Arrays(NamedTuple):
    """A weight of N rows, K padded to P columns. codes: u8 [N, P * bits / 8], a row's planes one after the other.

    outer [N, P / block] is f16 (f32 for I8), inner [N, P / group] u8, i8 or f16; the offset's factors likewise. Padding
    has outer 0, so its values are 0."""

    codes: U8
    outer: NDArray[Any]
    inner: NDArray[Any] | None
    offset_outer: NDArray[Any] | None
    offset_inner: NDArray[Any] | None


def padded(columns: int) -> int:
    return -(-columns // SUPERBLOCK) * SUPERBLOCK


def arrange(weight: Weight, rows: slice = slice(None)) -> Arrays:
    """Some rows of a quantised weight, from the file's blocks. Loses nothing: `decode` gives `dequantize`'s bits."""
    encoding, format = ENCODINGS[weight.type], FORMATS[weight.type]
    blocks = weight.data.reshape(weight.shape[0], -1)[rows]
    count, columns = len(blocks), weight.shape[1]
    codes, scales, offsets = unpack(weight.type, blocks.reshape(-1, format.block_bytes))
    indices = np.searchsorted(IQ4_LEVELS, codes) if encoding.levels else codes.astype(np.int16) + encoding.zero
    planes, width = _planes(indices.astype(np.uint8).reshape(count, columns), encoding), padded(columns)
    wide = np.float32 if weight.type.startswith("I8") else np.float16

    def row(factor: Any, size: int, kind: Callable[[Any], Any]) -> NDArray[Any] | None:
        return None if factor is None else _pad(kind(np.asarray(factor)).reshape(count, -1), width // size)

    def outer(factor: Any) -> NDArray[Any]:
        narrow: NDArray[Any] = factor.astype(wide)  # it came from a number of this width
        return narrow

    outer_scale, inner_scale = scales
    outer_offset, inner_offset = offsets or (None, None)
    made = row(outer_scale, encoding.block, outer)
    assert made is not None
    return Arrays(
        planes,
        made,
        row(inner_scale, encoding.group, _narrow),
        row(outer_offset, encoding.block, outer),
        row(inner_offset, encoding.group, _narrow),
    )


def _narrow(factor: NDArray[Any]) -> NDArray[Any]:
    """An inner factor as stored: one byte if it is an integer, f16 (as U4's zero points came) if not."""
    return factor.astype(np.float16) if factor.dtype.kind == "f" else factor


def _planes(codes: U8, encoding: Encoding) -> U8:
    codes, shift, out = _pad(codes, padded(codes.shape[1])), 0, []
    for bits in filter(None, encoding.planes):
        per = 8 // bits
        part = (codes >> shift & (1 << bits) - 1).reshape(len(codes), -1, per, STEP)
        places = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        out.append(np.bitwise_or.reduce(part << places, axis=-2).reshape(len(codes), -1))
        shift += bits
    return np.concatenate(out, axis=1).astype(np.uint8)


def _pad(array: NDArray[Any], columns: int) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, columns - array.shape[1])))


def decode(arrays: Arrays, encoding: Encoding, columns: int) -> F32:
    """[N, K]: what kernels/weights.py computes of it, with the same roundings."""
    codes, start, shift = np.zeros((len(arrays.codes), padded(columns)), np.int32), 0, 0
    for bits in filter(None, encoding.planes):
        size = padded(columns) * bits // 8
        plane = arrays.codes[:, start : start + size].reshape(len(codes), -1, 1, STEP)
        part = plane >> np.arange(0, 8, bits, dtype=np.uint8)[:, None] & (1 << bits) - 1
        codes |= part.reshape(codes.shape).astype(np.int32) << shift
        start, shift = start + size, shift + bits
    values = IQ4_LEVELS[codes] if encoding.levels else codes - encoding.zero
    out = values.astype(np.float32) * _factors(arrays.outer, arrays.inner, encoding)
    if arrays.offset_outer is not None:
        out += _factors(arrays.offset_outer, arrays.offset_inner, encoding)
    return np.asarray(out[:, :columns])


def _factors(outer: NDArray[Any], inner: NDArray[Any] | None, encoding: Encoding) -> F32:
    """[N, P]"""
    product: F32 = outer.astype(np.float32).repeat(encoding.block // encoding.group, axis=1)
    return (product if inner is None else product * inner.astype(np.float32)).repeat(encoding.group, axis=1)
