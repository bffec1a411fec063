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

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}
QUANTISED = frozenset({"int8"})
INT8_MAX = np.float32(127)


class Plane:
    """The keys, or the values, of one layer: [slots, kv_heads, head_dim].

    int8 keeps a float32 scale for each token and head: value = code * scale, scale = largest magnitude / 127.
    """

    def __init__(self, slots: int, heads: int, head_dim: int, dtype: str):
        self.rotation = hadamard(head_dim) if dtype in QUANTISED and is_power_of_two(head_dim) else None
        self.data = np.zeros((slots, heads, head_dim), DTYPES[dtype])
        self.scales: F32 | None = np.zeros((slots, heads, 1), np.float32) if dtype == "int8" else None

    def write(self, slots: I32, x: F32) -> None:
        """x [len(slots), kv_heads, head_dim]."""
        if self.scales is None:
            self.data[slots] = x.astype(self.data.dtype)  # round to nearest even
            return
        x = x if self.rotation is None else x @ self.rotation
        scale = np.abs(x).max(axis=-1, keepdims=True) / INT8_MAX
        self.scales[slots] = scale
        self.data[slots] = np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0))

    def read(self, slots: I32) -> F32:
        values: F32 = self.data[slots].astype(np.float32)
        if self.scales is not None:
            values = values * self.scales[slots]
        return values if self.rotation is None else values @ self.rotation

    def copy(self, source: slice | int, target: slice | int) -> None:
        for array in self._arrays():
            array[target] = array[source]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> list[NDArray[np.generic]]:
        return [self.data] if self.scales is None else [self.data, self.scales]


def is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def hadamard(n: int) -> F32:
    """[n, n], n a power of two: the Walsh-Hadamard matrix, orthonormal and symmetric, so it is its own inverse."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(np.float32(n)), np.float32)


class PagedCache:
    """Keys and values of all layers; slot = block * block_size + offset."""

    def __init__(self, config: CacheConfig, layers: tuple[Attention, ...]):
        self.block_size = config.block_size
        slots = config.num_blocks * config.block_size
        self.layers = [
            (Plane(slots, a.kv_heads, a.head_dim, config.dtype), Plane(slots, a.kv_heads, a.value_dim, config.dtype))
            for a in layers
        ]

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
