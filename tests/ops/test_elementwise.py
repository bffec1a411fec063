"""Norms, activations and angles: close to their twins, and the same bits on every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from octavo import _native
from octavo.types import F32
from tests.ops import twins

ops = _native.ops
LENGTHS = [1, 15, 16, 64, 80, 576, 1537]


def normal(*shape: int, seed: int = 0, spread: float = 1.0) -> F32:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def rms_norm(isa: str, n: int) -> F32:
    out = np.empty(n, np.float32)
    ops.rms_norm(isa, normal(n), normal(n, seed=1), 1e-6, out)
    return out


def gated(isa: str, n: int, activation: int = 0) -> F32:
    out = np.empty(n, np.float32)
    ops.gated(isa, normal(n, spread=4), normal(n, seed=1), activation, out)
    return out


def softcap(isa: str, n: int) -> F32:
    out = normal(n, spread=40)
    ops.softcap(isa, out, 30.0)
    return out


def add(isa: str, n: int) -> F32:
    out = normal(n)
    ops.add(isa, normal(n, seed=1), out)
    return out


def angles(isa: str, n: int) -> F32:
    out = np.empty(2 * n, np.float32)
    ops.rope_angles(isa, np.geomspace(1, 1e-6, n, dtype=np.float32), 1.25, 100_003, out)
    return out


@pytest.mark.parametrize("n", LENGTHS)
def test_rms_norm(isa: str, n: int):
    assert rms_norm(isa, n) == pytest.approx(twins.rms_norm(normal(n), normal(n, seed=1), 1e-6), rel=1e-6)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("activation", [0, 1])
def test_gated(isa: str, n: int, activation: int):
    twin = (twins.silu, twins.gelu_tanh)[activation](normal(n, spread=4)) * normal(n, seed=1)
    assert gated(isa, n, activation) == pytest.approx(twin, rel=1e-5, abs=1e-12)


def test_silu_of_large_values_neither_overflows_nor_loses_a_nan(isa: str):
    gate = np.array([200, -200, -1e30, 1e30, 0, np.nan], np.float32)
    out = np.empty_like(gate)
    ops.gated(isa, gate, np.ones_like(gate), 0, out)
    assert out[:5] == pytest.approx([200, 0, 0, 1e30, 0], rel=1e-6, abs=1e-7) or out[2] <= 0
    assert np.isnan(out[5])


@pytest.mark.parametrize("n", LENGTHS)
def test_softcap(isa: str, n: int):
    twin = 30 * np.tanh(normal(n, spread=40).astype(np.float64) / 30)
    assert softcap(isa, n) == pytest.approx(twin, rel=5e-7)


def test_add(isa: str):
    assert (add(isa, 77) == normal(77) + normal(77, seed=1)).all()


@pytest.mark.parametrize("n", [4, 32, 40])
def test_angles_are_right_at_far_positions(isa: str, n: int):
    twin = twins.angles(np.geomspace(1, 1e-6, n, dtype=np.float32), 1.25, 100_003)
    assert angles(isa, n) == pytest.approx(twin, abs=1e-6)


@pytest.mark.parametrize("op", [rms_norm, gated, lambda isa, n: gated(isa, n, 1), softcap, add, angles])
def test_same_bits_on_every_instruction_set(isa: str, op: Callable[[str, int], F32]):
    for n in LENGTHS:
        assert op(isa, n).tobytes() == op("portable", n).tobytes()
