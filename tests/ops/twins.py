"""Slow twins of the kernels, plain and in float64, and a reader of the KV cache's bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.types import F32

F64 = NDArray[np.float64]
KV_TYPES = {"f32": 0, "bf16": 1, "int8": 2, "k8v4": 3}
QUANTISED = ("int8", "k8v4")
CACHED = (*KV_TYPES, "int8-biased", "k8v4-biased")  # the last two: with a key offset, see `KeyOffset`
WIDTHS = {"f32": 4, "bf16": 2, "int8": 1, "k8v4": 1}  # bytes of a value of K


def rms_norm(x: F32, weight: F32, eps: float) -> F64:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight)


def silu(x: F32) -> F64:
    return np.asarray(x / (1 + np.exp(-x.astype(np.float64))))


def gelu_tanh(x: F32) -> F64:
    wide = x.astype(np.float64)
    return np.asarray(wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))))


def angles(inv_freq: F32, scale: float, position: int) -> F64:
    """[2 * len(inv_freq)]: cosines, then sines."""
    angle = position * inv_freq.astype(np.float64)
    return np.concatenate([np.cos(angle), np.sin(angle)]) * scale


def rope(x: F64, cos_sin: F64, interleaved: bool) -> F64:
    """x [..., head_dim]: the first len(cos_sin) values of a head, in pairs (2i, 2i+1) or (i, i + half), are rotated."""
    dim, half = len(cos_sin), len(cos_sin) // 2
    first = slice(0, dim, 2) if interleaved else slice(0, half)
    second = slice(1, dim, 2) if interleaved else slice(half, dim)
    turn = cos_sin[:half] + 1j * cos_sin[half:]
    turned = (x[..., first] + 1j * x[..., second]) * turn
    out = x.copy()
    out[..., first], out[..., second] = turned.real, turned.imag
    return out


def bfloat16(x: F32) -> F32:
    """Rounded to the nearest bfloat16, ties to even."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def int8_row(x: F32) -> F32:
    """Each row (last axis) as scale * code, scale = max |x| / 127."""
    largest = np.abs(x).max(-1, keepdims=True)
    codes = np.rint(
        x * np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), 0).astype(np.float32)
    )
    return np.asarray(codes * (largest / np.float32(127)), np.float32)


def hadamard(x: F32) -> F32:
    """The orthonormal Walsh-Hadamard transform of each row (last axis), in float32, with the kernels' roundings."""
    n = x.shape[-1]
    for _ in range(n.bit_length() - 1):
        even, odd = x[..., 0::2], x[..., 1::2]
        x = np.concatenate([even + odd, even - odd], -1)
    return np.asarray(x * (np.float32(1) / np.sqrt(np.float32(n))), np.float32)


def turned(x: F32, kv_type: str) -> F32:
    """Heads as this type of cache holds them, before rounding; and heads as they were, given what it holds."""
    power_of_two = x.shape[-1] & (x.shape[-1] - 1) == 0
    return hadamard(x) if kv_type in QUANTISED and power_of_two else x


def queried(x: F32, kv_type: str) -> F32:
    """The query as attention uses it: with int8 keys it is int8 too, in groups of 32 dims with one scale each."""
    if kv_type not in QUANTISED:
        return x
    x = turned(x, kv_type)
    return np.concatenate([int8_row(x[..., start : start + 32]) for start in range(0, x.shape[-1], 32)], -1)


def int4_groups(x: F32) -> F32:
    """Each 32 values as minimum + scale * code, both f16, codes 0 .. 15."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = ((high - low) / np.float32(15)).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    inverse = np.where(scale > 0, np.float32(1) / np.where(scale > 0, scale, 1), 0).astype(np.float32)
    codes = np.rint(np.clip((groups - low) * inverse, 0, 15))
    return np.asarray((low + scale * codes).reshape(x.shape), np.float32)


def stored(x: F32, kv_type: str, value: bool = False) -> F32:
    """The keys, or the values, that the cache holds after this row was written."""
    if kv_type == "k8v4":
        return (int4_groups if value else int8_row)(turned(x, kv_type))
    return {"f32": lambda v: v, "bf16": bfloat16, "int8": int8_row}[kv_type](turned(x, kv_type))


class KeyOffset:
    """A key offset for `positions` positions: a bias with outliers, as in Qwen2.5, and rope over 3 / 4 of a head."""

    def __init__(self, kv_heads: int, head_dim: int, positions: int, interleaved: bool = False):
        rng = np.random.default_rng(9)
        self.bias = (rng.standard_normal((kv_heads, head_dim)) * 2).astype(np.float32)
        self.bias[:, :: head_dim // 4] *= 20
        self.inv_freq = np.geomspace(1, 1e-3, head_dim // 8 * 3, dtype=np.float32)
        self.interleaved = interleaved
        middles = range(8, positions + 64, 16)
        self.angles = np.array([angles(self.inv_freq, 1, middle) for middle in middles], np.float32)

    @property
    def arrays(self) -> tuple[F32, F32, bool]:
        return self.bias.reshape(-1), self.angles, self.interleaved

    def at(self, positions: NDArray[np.int32]) -> F32:
        """[len(positions), kv_heads, head_dim]: what keys at these positions are stored less."""
        wide = self.bias.astype(np.float64)
        rows = [rope(wide, self.angles[p // 16].astype(np.float64), self.interleaved) for p in positions.tolist()]
        return np.array(rows, np.float32)

    def own(self, position: int) -> F32:
        """[kv_heads, head_dim]: the bias as the key at this position has it."""
        turn = angles(self.inv_freq, 1, position)
        return rope(self.bias.astype(np.float64), turn, self.interleaved).astype(np.float32)


@dataclass(frozen=True)
class KvLayout:
    """One layer's blocks, as native/kernels/kernels.h lays them out."""

    kv_type: str
    kv_heads: int
    head_dim: int
    block_size: int

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Bytes of a block's K, V, and what these are decoded with."""
        slots, width = self.kv_heads * self.block_size, WIDTHS[self.kv_type]
        k, scales = slots * self.head_dim * width, slots * 4 if self.kv_type in QUANTISED else 0
        if self.kv_type == "k8v4":
            return k, k // 2, scales, slots * self.head_dim // 32 * 4
        return k, k, scales, scales

    @property
    def block_bytes(self) -> int:
        return sum(self.parts)

    def read(self, memory: NDArray[np.uint8], block: int) -> tuple[F32, F32]:
        """(K, V) of a block, each [kv_heads, block_size, head_dim]."""
        start = block * self.block_bytes
        k, v, k_scale, v_scale = np.split(memory[start : start + self.block_bytes], np.cumsum(self.parts)[:-1])
        pack, shape = 4 // WIDTHS[self.kv_type], (self.kv_heads, self.block_size, self.head_dim)
        keys = self._values(k).reshape(self.kv_heads, self.head_dim // pack, self.block_size, pack)
        keys = keys.transpose(0, 2, 1, 3).reshape(shape)
        if self.kv_type in QUANTISED:
            keys = keys * k_scale.view(np.float32).reshape(*shape[:2], 1)
        if self.kv_type == "k8v4":
            return keys, self._nibbles(v, v_scale).reshape(shape)
        values = self._values(v).reshape(self.kv_heads, self.block_size // pack, self.head_dim, pack)
        values = values.transpose(0, 1, 3, 2).reshape(shape)
        if self.kv_type == "int8":
            values = values * v_scale.view(np.float32).reshape(*shape[:2], 1)
        return keys, values

    def _values(self, raw: NDArray[np.uint8]) -> F32:
        if self.kv_type == "bf16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view(np.float32 if self.kv_type == "f32" else np.int8).astype(np.float32)

    def _nibbles(self, raw: NDArray[np.uint8], scales: NDArray[np.uint8]) -> F32:
        """k8v4's values: [kv_heads, block_size, groups, 32]."""
        groups = self.head_dim // 32
        data = raw.reshape(self.kv_heads, self.block_size // 4, groups, 16, 4).transpose(0, 1, 4, 2, 3)
        codes = np.concatenate([data & 15, data >> 4], -1).reshape(self.kv_heads, self.block_size, groups, 32)
        by_group = scales.view(np.float16).astype(np.float32).reshape(self.kv_heads, groups, 2, self.block_size)
        scale, low = (by_group[:, :, i].transpose(0, 2, 1)[..., None] for i in (0, 1))
        return np.asarray(low + scale * codes.astype(np.float32), np.float32)


# Largest error of attention, by the type of the cache. With quantised values the weights are 15-bit numbers, which adds
# a fortieth of the rounding error of int8 values.
ATTENTION_NEAR = {"f32": 5e-6, "bf16": 5e-6} | dict.fromkeys(CACHED[2:], 5e-4)


def attention(
    q: F32,
    k: F32,
    v: F32,
    start: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    shift: tuple[F64, F64] | None = None,
) -> F64:
    """q [n, heads, head_dim] at positions start .. start + n over k, v [positions, kv_heads, head_dim]; shaped as q.

    shift: other queries and keys, as q and k; their products are added to the scores."""
    n, heads, _ = q.shape
    position, key = start + np.arange(n)[:, None], np.arange(len(k))[None, :]
    seen = (key <= position) & ((key > position - window) | (window == 0))
    out = np.empty(q.shape)
    for head in range(heads):
        group = head * k.shape[1] // heads
        scores = q[:, head].astype(np.float64) @ k[:, group].astype(np.float64).T * scale
        if shift:
            scores += shift[0][:, head] @ shift[1][:, group].T * scale
        scores = softcap * np.tanh(scores / softcap) if softcap else scores
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[:, head] = weights / weights.sum(1, keepdims=True) @ v[:, group].astype(np.float64)
    return out
