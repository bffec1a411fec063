from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.models.keys import Keys
from octavo.models.rope import RopeConfig, RopeScaling, make_rope, scaling_from_gguf, scaling_from_hf

PLAIN = RopeScaling()
LLAMA31 = RopeScaling("llama3", factor=8.0, original_context=8192)
YARN = RopeScaling("yarn", factor=4.0, original_context=32768, attention=0.1 * math.log(4) + 1)


def test_plain_frequencies() -> None:
    rope = make_rope(RopeConfig(4, 10_000.0, interleaved=True))
    np.testing.assert_allclose(rope.inv_freq, [1.0, 0.01], rtol=1e-7)
    assert rope.inv_freq.dtype == np.float32 and rope.interleaved and rope.scale == 1.0


def test_linear_divides_every_frequency() -> None:
    plain, linear = (make_rope(RopeConfig(64, 1e4, s)).inv_freq for s in (PLAIN, RopeScaling("linear", factor=8.0)))
    np.testing.assert_allclose(linear, plain / 8, rtol=1e-6)


def test_llama3_against_the_published_rule() -> None:
    """Meta's apply_scaling, value by value."""
    expected = []
    for i in range(64):
        freq = 500_000.0 ** (-2 * i / 128)
        wavelength = 2 * math.pi / freq
        if wavelength < 8192 / 4:
            expected.append(freq)
        elif wavelength > 8192 / 1:
            expected.append(freq / 8)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected.append((1 - smooth) * freq / 8 + smooth * freq)
    np.testing.assert_allclose(make_rope(RopeConfig(128, 500_000.0, LLAMA31)).inv_freq, expected, rtol=1e-6)


def test_divisors_are_llama3_scaling_in_gguf() -> None:
    """GGUF has no key for llama3's scaling. A tensor holds the divisors instead."""
    plain = make_rope(RopeConfig(128, 5e5)).inv_freq
    scaled = make_rope(RopeConfig(128, 5e5, LLAMA31))
    divisors = (plain / scaled.inv_freq).astype(np.float32)
    assert divisors[0] == 1.0 and divisors[-1] == pytest.approx(8.0)
    divided = make_rope(RopeConfig(128, 5e5), divisors).inv_freq
    np.testing.assert_allclose(divided, scaled.inv_freq, rtol=1e-6)
    assert (make_rope(RopeConfig(128, 5e5, divided=False), divisors).inv_freq == plain).all()


def test_yarn_against_the_paper() -> None:
    """Pairs that rotate over beta_fast times are kept, those under beta_slow are scaled, with a ramp in between."""
    dim, base, context = 128, 1e6, 32768

    def boundary(turns: float) -> float:
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = math.floor(boundary(32)), math.ceil(boundary(1))
    expected = []
    for i in range(dim // 2):
        freq = base ** (-2 * i / dim)
        ramp = min(max((i - low) / (high - low), 0.0), 1.0)
        expected.append(freq / 4 * ramp + freq * (1 - ramp))
    rope = make_rope(RopeConfig(dim, base, YARN))
    np.testing.assert_allclose(rope.inv_freq, expected, rtol=1e-6)
    assert rope.scale == pytest.approx(0.1 * math.log(4) + 1)


def test_scaling_is_read_alike_from_both_sources() -> None:
    gguf = Keys(
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 32768,
        },
        "llama.",
    )
    hf = Keys({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})
    assert scaling_from_gguf(gguf, 131072) == scaling_from_hf(hf, 131072) == YARN
    assert scaling_from_hf(Keys({}), 8192) == scaling_from_gguf(Keys({}, "llama."), 8192) == PLAIN
    old = Keys({"llama.rope.scale_linear": 2.0}, "llama.")
    assert scaling_from_gguf(old, 8192) == RopeScaling("linear", factor=2.0, original_context=8192)
