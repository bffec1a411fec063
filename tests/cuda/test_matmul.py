"""Matmuls: near float64 on the weights as they are rounded, and one order of sums whatever the number of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.backends.cuda import layout
from octavo.backends.cuda.encodings import DENSE, ENCODINGS
from octavo.backends.cuda.launch import CHUNKS, chunk_columns
from octavo.backends.cuda.lower import matmul_launch, stored
from octavo.backends.cuda.values import operand
from octavo.types import F32
from octavo.weights.dequantize import dequantize
from tests.cuda.weights import encoded
from tests.cuda.where import DEVICE, GPU, on_device

NAN = float("nan")


def product(
    type: str, w: F32, x: F32, bias: F32 | None = None, into: F32 | None = None, factor: float = 1.0
) -> tuple[F32, F32]:
    """(what the kernel gives, the same in float64)."""
    weight = encoded(w, type)
    matrix = layout.matrix([weight], DEVICE)
    dtype = stored(operand(matrix.type))
    wide = torch.full((len(x) + 2, -(-x.shape[1] // 16) * 16), NAN, dtype=dtype, device=DEVICE)
    wide[: len(x), : x.shape[1]] = on_device(x).to(dtype)
    out = torch.full((len(x) + 2, len(w)), NAN, device=DEVICE)
    if into is not None:
        out[: len(x)] = on_device(into)
    b = None if bias is None else on_device(bias)
    args = (wide[:, : x.shape[1]], matrix, layout.levels(DEVICE), b, factor, into is not None)
    matmul_launch(out, *args, len(x))()
    assert torch.isnan(out[len(x) :]).all(), "rows behind the batch are not touched"
    rounded = torch.from_numpy(dequantize(weight)).to(dtype).double().numpy()
    exact = wide[: len(x), : x.shape[1]].double().cpu().numpy() @ rounded.T * factor
    exact = exact + (0 if bias is None else bias) + (0 if into is None else into)
    return out[: len(x)].cpu().numpy(), exact


def random(*shape: int) -> F32:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("type", [*DENSE, *ENCODINGS])
def test_near_float64(type: str) -> None:
    columns = 256 if type.endswith("_K") or type == "IQ4_XS" else 288 if type in ("F32", "Q4_0") else 384
    found, exact = product(type, random(35, columns), random(3, columns))
    assert np.abs(found - exact).max() < 1e-4


def test_bias_residual_and_factor() -> None:
    found, exact = product("Q8_0", random(35, 64), random(3, 64), random(1, 35)[0], random(3, 35), factor=16.0)
    assert np.abs(found - exact).max() < 5e-4


@pytest.mark.parametrize("type", [*DENSE, *ENCODINGS] if GPU else ["BF16", "Q4_K"])
def test_a_row_has_the_same_bits_alone_and_in_company(type: str) -> None:
    """On a GPU with every tile of the table."""
    columns = 4096 if GPU else 512
    w, x = random(130, columns), random(2048 if GPU else 19, columns)
    want, _ = product(type, w, x[:1])
    for tokens in (2, 7, 16, 64, 65, 512, 2048) if GPU else (19,):
        assert product(type, w, x[:tokens])[0][0].tobytes() == want[0].tobytes(), tokens
    for row in (7, 18):
        assert product(type, w, x[row : row + 1])[0][0].tobytes() == product(type, w, x)[0][row].tobytes()


@pytest.mark.parametrize("type", ["F32", "BF16", "Q8_0"])
def test_widths_that_are_multiples_of_nothing(type: str) -> None:
    found, exact = product(type, random(37, 96 if type == "Q8_0" else 41), random(3, 96 if type == "Q8_0" else 41))
    assert np.abs(found - exact).max() < 1e-4


@pytest.mark.parametrize("columns", [256, 1536, 2048, 8960, 14336])
def test_chunks_follow_from_the_shape(columns: int) -> None:
    size = chunk_columns(columns)
    assert size % 256 == 0 and -(-columns // size) <= CHUNKS
