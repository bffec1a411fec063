"""The reference backend's paged KV cache: plain arrays by slot, with the rounding of each storage type.

Quantised types hold heads in rotated form (native/kernels/rotation.inc says why). A reader gets them as they were
written, but for rounding.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from octavo.config import CacheConfig
from octavo.ir import Attention
from octavo.types import F32, I32

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = {"int8": ("int8", "int8"), "k8v4": ("int8", "int4")}  # how keys and how values are stored
INT8_MAX, INT4_MAX = np.float32(127), np.float32(15)
GROUP = 32  # values of 4 bits that share a scale and a minimum


class Plane:
    """The keys, or the values, of one layer, as floats: [slots, kv_heads, head_dim]."""

    def __init__(self, slots: int, heads: int, head_dim: int, dtype: str):
        self.data = np.zeros((slots, heads, head_dim), DTYPES[dtype])

    def write(self, slots: I32, x: F32) -> None:
        """x [len(slots), kv_heads, head_dim]."""
        self.data[slots] = x.astype(self.data.dtype)  # round to nearest even

    def read(self, slots: I32) -> F32:
        return self.data[slots].astype(np.float32)

    def copy(self, source: slice | int, target: slice | int) -> None:
        for array in self._arrays():
            array[target] = array[source]

    def copy_head(self, head: int, source: I32, target: I32) -> None:
        """Copies one head's values from slots to slots. No source may be a target."""
        for array in self._arrays():
            array[target, head] = array[source, head]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> list[NDArray[np.generic]]:
        return [self.data]


class QuantisedPlane(Plane):
    """Rotated heads as integers.

    int8: value = scale * code, a float32 scale for each token and head: largest magnitude / 127.
    int4: value = minimum + scale * code, both f16, for each GROUP of dims; two codes in a byte.
    """

    def __init__(self, slots: int, heads: int, head_dim: int, kind: str):
        self.rotated = head_dim & (head_dim - 1) == 0
        self.int8 = kind == "int8"
        if self.int8:
            self.data = np.zeros((slots, heads, head_dim), np.int8)
            self.scales: NDArray[np.floating] = np.zeros((slots, heads, 1), np.float32)
        else:
            self.data = np.zeros((slots, heads, head_dim // 2), np.uint8)
            self.scales = np.zeros((slots, heads, head_dim // GROUP, 2), np.float16)

    def write(self, slots: I32, x: F32) -> None:
        x = hadamard(x) if self.rotated else x
        if self.int8:
            scale = np.abs(x).max(axis=-1, keepdims=True) / INT8_MAX
            self.scales[slots] = scale
            self.data[slots] = np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0))
            return
        groups = x.reshape(*x.shape[:2], -1, GROUP)
        low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        rounded = np.concatenate([(high - low) / INT4_MAX, low], axis=-1).astype(np.float16)
        self.scales[slots] = rounded
        scale, low = (rounded[..., i, None].astype(np.float32) for i in (0, 1))
        steps = np.divide(groups - low, scale, out=np.zeros_like(groups), where=scale > 0)
        codes = np.rint(np.clip(steps, 0, INT4_MAX)).astype(np.uint8).reshape(x.shape)
        self.data[slots] = codes[..., 0::2] | codes[..., 1::2] << 4

    def read(self, slots: I32) -> F32:
        data = self.data[slots]
        if self.int8:
            values: F32 = data.astype(np.float32) * self.scales[slots]
        else:
            codes = np.stack([data & 15, data >> 4], axis=-1).astype(np.float32)
            scale, low = (self.scales[slots][..., i, None].astype(np.float32) for i in (0, 1))
            values = (codes.reshape(*data.shape[:2], -1, GROUP) * scale + low).reshape(*data.shape[:2], -1)
        return hadamard(values) if self.rotated else values

    def _arrays(self) -> list[NDArray[np.generic]]:
        return [self.data, self.scales]


def planes(slots: int, spec: Attention, dtype: str) -> tuple[Plane, Plane]:
    """The keys and the values of a layer."""
    make = QuantisedPlane if dtype in QUANTISED else Plane
    key, value = QUANTISED.get(dtype, (dtype, dtype))
    return make(slots, spec.kv_heads, spec.head_dim, key), make(slots, spec.kv_heads, spec.value_dim, value)


def hadamard(x: F32) -> F32:
    """x [..., n], n a power of two: each row times the orthonormal Walsh-Hadamard matrix, which is its own inverse.

    The order of additions is that of native/kernels/rotation.inc, so that values are rounded to the same codes.
    """
    n = x.shape[-1]
    for _ in range(n.bit_length() - 1):
        even, odd = x[..., 0::2], x[..., 1::2]
        x = np.concatenate([even + odd, even - odd], axis=-1)
    return np.asarray(x * (np.float32(1) / np.sqrt(np.float32(n))), np.float32)


class PagedCache:
    """Keys and values of all layers; slot = block * block_size + offset."""

    def __init__(self, config: CacheConfig, layers: tuple[Attention, ...]):
        self.block_size = config.block_size
        slots = config.num_blocks * config.block_size
        self.layers = [planes(slots, spec, config.dtype) for spec in layers]

    def slots(self, block_table: I32, length: int) -> I32:
        """[length]: the slots of a sequence's first `length` tokens."""
        index = np.arange(length, dtype=np.int32)
        return block_table[index // self.block_size] * np.int32(self.block_size) + index % self.block_size

    def copy_blocks(self, copies: I32) -> None:
        for source, target in copies.tolist():
            for plane in (plane for layer in self.layers for plane in layer):
                plane.copy(self._span(source), self._span(target))

    def move_slots(self, moves: I32) -> None:
        for source, target in moves.tolist():
            for plane in (plane for layer in self.layers for plane in layer):
                plane.copy(source, target)

    def _span(self, block: int) -> slice:
        return slice(block * self.block_size, (block + 1) * self.block_size)

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)
