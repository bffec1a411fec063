"""Rotary position embedding (RoFormer, 2104.09864): frequencies, and how they are stretched to longer contexts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelFileError
from octavo.ir import Rope
from octavo.models.keys import Keys

F64 = NDArray[np.float64]

# What "{arch}.rope.scaling.*" must be where it is stated, because no kind here reads it.
GGUF_NEUTRAL = {"yarn_ext_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_log_multiplier": 0.0}
# Kinds that stretch nothing. "dynamic" stretches sequences beyond max_position_embeddings, which do not run here.
HF_PLAIN = ("default", "dynamic")
# The keys of a config.json's rope table that some kind reads.
HF_KEYS = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How frequencies are stretched beyond the trained context. kind: a key of `STRETCH`.

    original_context: tokens the model was trained on. attention: multiplies cos and sin (YaRN's temperature).
    truncate: YaRN's ramp begins and ends at whole pairs.
    """

    kind: str = "none"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention: float = 1.0
    truncate: bool = True

    def context(self, stated: int) -> int:
        """The longest context in tokens. Under YaRN files often state the trained one."""
        return max(stated, int(self.original_context * self.factor)) if self.kind == "yarn" else stated


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """The rotation of a layer's queries and keys.

    dim: how many values of a head are rotated, the first ones. theta: the base. interleaved: pairs are (2i, 2i+1)
    instead of (i, i + dim/2). divided: the tensor rope_freqs.weight applies, if the file has one: see `make_rope`.
    """

    dim: int
    theta: float
    scaling: RopeScaling = RopeScaling()
    interleaved: bool = False
    divided: bool = True

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ModelFileError(f"model metadata: head dimension {self.dim} is odd; rotary pairs need it even")


def scaling_from_gguf(keys: Keys, context: int) -> RopeScaling:
    """From "{arch}.rope.scaling.*". llama3's scaling is no key but the tensor rope_freqs.weight: see `make_rope`."""
    factor = keys.number("rope.scaling.factor", 0, 1e4, keys.number("rope.scale_linear", 0, 1e4, 0.0))
    kind = keys.text("rope.scaling.type", "linear" if factor > 0 else "none")
    if kind == "none" or factor == 0:
        return RopeScaling()
    _check_kind(kind, "rope.scaling.type", ("linear", "yarn"))
    for key, neutral in GGUF_NEUTRAL.items():
        keys.number(f"rope.scaling.{key}", neutral, neutral, neutral)
    temperature = _yarn_temperature(factor) if kind == "yarn" else 1.0
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=keys.integer("rope.scaling.original_context_length", 1, 1 << 28, context),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0),
        attention=keys.number("rope.scaling.attn_factor", 0, 1e3, 1.0) * temperature,
    )


def scaling_from_hf(table: Keys, context: int, original: int | None = None) -> RopeScaling:
    """From the rope table of a config.json, as transformers reads it.

    context: `max_position_embeddings`. original: `original_max_position_embeddings` where it stands beside that key
    instead of in the table. A key that belongs to another kind of rope has no effect. A key of no kind is refused.
    """
    table.expect_only(HF_KEYS)
    table.number("partial_rotary_factor", 1, 1, 1.0)
    kind = table.text("rope_type", table.text("type", "default"))
    if kind in HF_PLAIN:
        return RopeScaling()
    _check_kind(kind, f"{table.prefix}rope_type", (*HF_PLAIN, "linear", "llama3", "yarn"))
    if kind == "linear":
        return RopeScaling(kind, table.number("factor", 1e-3, 1e4))
    original = original or table.integer("original_max_position_embeddings", 1, 1 << 28, context)
    if kind == "llama3":
        return RopeScaling(
            kind=kind,
            factor=table.number("factor", 1e-3, 1e4),
            original_context=original,
            low_freq_factor=table.number("low_freq_factor", 1e-3, 1e4, 1.0),
            high_freq_factor=table.number("high_freq_factor", 1e-3, 1e4, 4.0),
        )
    factor = table.number("factor", 1e-3, 1e4, context / original)
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=original,
        # transformers takes a zero for "not set", too
        beta_fast=table.number("beta_fast", 0, 1e6, 0.0) or 32.0,
        beta_slow=table.number("beta_slow", 0, 1e6, 0.0) or 1.0,
        attention=table.number("attention_factor", 0, 1e3, _yarn_attention(table, factor)),
        truncate=table.flag("truncate", True),
    )


def make_rope(c: RopeConfig, divisors: NDArray[np.float32] | None = None) -> Rope:
    """divisors [dim / 2]: what Llama 3's GGUF files divide the frequencies by (the tensor rope_freqs.weight)."""
    plain = c.theta ** -(np.arange(0, c.dim, 2, dtype=np.float64) / c.dim)
    stretched = STRETCH[c.scaling.kind](plain, c.scaling)
    if c.divided and divisors is not None:
        stretched = stretched / divisors.astype(np.float64)
    return Rope(stretched.astype(np.float32), c.interleaved, c.scaling.attention)


def _linear(freq: F64, s: RopeScaling) -> F64:
    """Position interpolation (2306.15595)."""
    return freq / s.factor


def _llama3(freq: F64, s: RopeScaling) -> F64:
    """Llama 3.1: stretches frequencies below low_freq_factor turns in the trained context and keeps high ones."""
    turns = s.original_context * freq / (2 * math.pi)
    keep = np.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0, 1)
    return freq * keep + freq / s.factor * (1 - keep)


def _yarn(freq: F64, s: RopeScaling) -> F64:
    """YaRN (2309.00071): as llama3, but the ramp runs over the pair's index, between whole indices."""
    dim, log_theta = 2 * len(freq), -math.log(freq[1]) * len(freq) if len(freq) > 1 else 1.0
    log_theta = max(log_theta, 1e-9)  # of a base of 1, which turns all pairs alike

    def index(turns: float) -> float:  # of the pair that makes `turns` turns in the trained context
        return dim * math.log(s.original_context / (turns * 2 * math.pi)) / (2 * log_theta)

    low, high = index(s.beta_fast), index(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    keep: F64 = 1 - np.clip((np.arange(len(freq)) - low) / (high - low or 1e-3), 0, 1)
    return freq * keep + freq / s.factor * (1 - keep)


STRETCH: dict[str, Callable[[F64, RopeScaling], F64]] = {
    "none": lambda freq, _: freq,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def _yarn_temperature(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_attention(table: Keys, factor: float) -> float:
    """DeepSeek's `mscale` and `mscale_all_dim` count only together."""
    mscale, all_dim = (table.number(key, 0, 1e3, 0.0) for key in ("mscale", "mscale_all_dim"))
    if mscale and all_dim:
        return _yarn_temperature(factor, mscale) / _yarn_temperature(factor, all_dim)
    return _yarn_temperature(factor)


def _check_kind(kind: str, key: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ModelFileError(f"model metadata: {key} {kind!r} is not supported; supported: {', '.join(known)}")
