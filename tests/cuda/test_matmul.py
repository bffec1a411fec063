"""Matmuls: near float64 on the weights as they are rounded, and one order of sums whatever the number of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.backends.cuda import layout
from octavo.backends.cuda.encodings import DENSE, ENCODINGS
from octavo.backends.cuda.launch import CHUNKS, chunk_columns
from octavo.backends.cuda.lower import matmul_launch, stored
from octavo.types import F32
from octavo.weights.dequantize import dequantize
from tests.cuda.weights import encoded

CPU = torch.device("cpu")
NAN = float("nan")


def product(
    type: str, w: F32, x: F32, bias: F32 | None = None, into: F32 | None = None, factor: float = 1.0
) -> tuple[F32, F32]:
    """(what the kernel gives, the same in float64)."""
    weight = encoded(w, type)
    matrix = layout.matrix([weight], CPU)
    dtype = stored(matrix.operand)
    wide = torch.full((len(x) + 2, -(-x.shape[1] // 16) * 16), NAN, dtype=dtype)
    wide[:, : x.shape[1]] = torch.from_numpy(np.pad(x, ((0, 2), (0, 0)), constant_values=NAN)).to(dtype)
    out = torch.full((len(x) + 2, len(w)), NAN)
    if into is not None:
        out[: len(x)] = torch.from_numpy(into)
    b = None if bias is None else torch.from_numpy(bias)
    args = (wide[:, : x.shape[1]], matrix, layout.levels(CPU), b, factor, into is not None)
    matmul_launch(out, *args, len(x))()
    assert torch.isnan(out[len(x) :]).all(), "rows behind the batch are not touched"
    rounded = torch.from_numpy(dequantize(weight)).to(dtype).double().numpy()
    exact = wide[: len(x), : x.shape[1]].double().numpy() @ rounded.T * factor
    exact = exact + (0 if bias is None else bias) + (0 if into is None else into)
    return out[: len(x)].numpy(), exact


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


@pytest.mark.parametrize("type", ["BF16", "Q4_K"])
def test_a_row_has_the_same_bits_alone_and_in_company(type: str) -> None:
    w, x = random(130, 512), random(19, 512)
    together, _ = product(type, w, x)
    for row in (0, 7, 18):
        alone, _ = product(type, w, x[row : row + 1])
        assert alone.tobytes() == together[row : row + 1].tobytes()


@pytest.mark.parametrize("columns", [256, 1536, 2048, 8960, 14336])
def test_chunks_follow_from_the_shape(columns: int) -> None:
    size = chunk_columns(columns)
    assert size % 256 == 0 and -(-columns // size) <= CHUNKS
