"""Each kernel against numpy in float64, on buffers whose other rows are poisoned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from octavo.backends.cuda.kernels import elementwise, embed
from octavo.backends.cuda.launch import Launch
from octavo.types import F32
from tests.cuda.where import APART, DEVICE, on_device
from tests.ops import twins

NAN = float("nan")
T, W = 5, 70  # W: neither a power of two nor whole blocks


def wide(x: F32) -> torch.Tensor:
    """x in the first rows and columns of a buffer of NaN."""
    out = torch.full((len(x) + 2, x.shape[1] + 3), NAN, device=DEVICE)
    out[: len(x), : x.shape[1]] = on_device(x)
    return out


def random(*shape: int) -> F32:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    Launch(kernel, grid, arguments, constants)()


def check(out: torch.Tensor, expected: np.ndarray, near: float = 3e-6) -> None:
    assert np.abs(out[:T, :W].float().cpu().numpy() - expected).max() < near * APART
    assert torch.isnan(out[T:]).all() and torch.isnan(out[:, W:]).all(), "nothing else is written"


@pytest.mark.parametrize("into", [False, True])
def test_norm(into: bool) -> None:
    x, weight, before = random(T, W), random(1, W)[0], random(T, W) * 2
    out = wide(before)
    launch(
        elementwise.norm, (3,), out, wide(x), on_device(weight), 1e-5, T, W + 3, W + 3, W=W, BLOCK=128, ROWS=2,
        INTO=into,
    )  # fmt: skip
    check(out, twins.rms_norm(x, weight, 1e-5) + (before if into else 0))


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated(activation: str) -> None:
    gate, up, out = random(T, W) * 8, random(T, W), wide(random(T, W))
    twin = twins.silu if activation == "silu" else twins.gelu_tanh
    gate[0, :4] = (-200, 200, 0, -1e-3)
    launch(
        elementwise.gated, (3, 2), out, wide(gate), wide(up), 0.0625, T, W, W + 3, W + 3, W + 3,
        SILU=activation == "silu", BLOCK=64, ROWS=2,
    )  # fmt: skip
    check(out, twin(gate) * up / 16, 2e-5)


def test_add() -> None:
    x, y = random(T, W), random(T, W) * 3
    out = wide(y)
    launch(elementwise.add, (3, 2), out, wide(x), T, W, W + 3, W + 3, BLOCK=64, ROWS=2)
    check(out, x + y, 1e-9)


def test_soft_cap() -> None:
    x = random(T, W) * 50
    out = wide(x)
    launch(elementwise.soft_cap, (3, 2), out, 30.0, T, W, W + 3, BLOCK=64, ROWS=2)
    check(out, 30 * np.tanh(x / 30.0), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gather(dtype: torch.dtype) -> None:
    """-1 - row: what the step before chose for this row."""
    x, rows = random(9, W), [8, 0, 3, 3, 1]
    chosen = torch.full((4, 4), 10**6, dtype=torch.int32, device=DEVICE)
    chosen[[0, 3], 0] = torch.tensor([8, 3], dtype=torch.int32, device=DEVICE)
    for index, known in ((rows, None), ([-1, 0, 3, -4, 1], chosen)):
        out = torch.full((T + 2, W + 3), NAN, dtype=dtype, device=DEVICE)
        arguments = (out, wide(x), on_device(np.array(index, np.int32)), known, 2.0, T, W, W + 3, W + 3)
        launch(embed.gather, (3, 2), *arguments, BLOCK=64, ROWS=2)
        check(out, torch.from_numpy(2 * x[rows]).to(dtype).float().numpy(), 1e-9)
