"""Packing is lossless. A matmul is exact for the quantised activations, with the same bits for every tile and ISA."""

from __future__ import annotations

import numpy as np
import pytest

from octavo import _native
from octavo.ir import Weight
from octavo.weights.dequantize import dequantize
from octavo.weights.formats import FORMATS

DENSE = ["F32", "F16", "BF16"]
QUANTISED = [type for type in FORMATS if type not in DENSE]
SCALES = {  # byte offsets of the f16 fields of a block, which random bytes must not make infinite or huge
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,),
    "U4_32": (0,), "U4_64": (0,), "U4_128": (0,),
}  # fmt: skip


COLUMNS = {32: (32, 96, 576, 1536), 64: (64, 192, 576, 1536), 128: (128, 384, 1536), 256: (256, 512, 1536)}


def random_weight(type: str, rows: int, columns: int, seed: int = 0, fill: int | None = None) -> Weight:
    """Random bytes, or all bytes the same, with plausible scales. Every code and every sub-scale occurs."""
    rng = np.random.default_rng(seed)
    if type in DENSE:
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        words = {
            "F32": values,
            "F16": values.astype(np.float16),
            "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
        }[type]
        return Weight("w", (rows, columns), type, np.ascontiguousarray(words).view(np.uint8).reshape(-1))
    form = FORMATS[type]
    blocks = rng.integers(0, 256, (rows * columns // form.block_size, form.block_bytes), np.uint8)
    if fill is not None:
        blocks[:] = fill

    def put(at: int, values: np.ndarray) -> None:
        blocks[:, at : at + values.itemsize] = values.view(np.uint8).reshape(len(blocks), -1)

    for at in SCALES.get(type, ()):
        put(at, rng.uniform(-2e-2, 2e-2, len(blocks)).astype(np.float16))
    if type.startswith("U4"):
        put(2, rng.integers(0, 17, len(blocks)).astype(np.float16))
    if type.startswith("I8"):
        put(0, rng.uniform(-2e-2, 2e-2, len(blocks)).astype(np.float32))
    return Weight("w", (rows, columns), type, blocks.reshape(-1))


def activations(tokens: int, columns: int, seed: int = 1) -> np.ndarray:
    """Normal values with outliers, an all-zero stretch and one tiny token, which scales must handle."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    x[:, :: max(1, columns // 7)] *= 50
    x[:, columns // 2 : columns // 2 + 32] = 0
    x[-1] *= 1e-6
    return x


def columns_of(type: str) -> tuple[int, ...]:
    return COLUMNS[max(32, FORMATS[type].block_size)]


@pytest.mark.parametrize("type", QUANTISED + DENSE)
def test_packing_is_lossless(type: str) -> None:
    for columns in columns_of(type):
        weight = random_weight(type, 37, columns)
        np.testing.assert_array_equal(_native.unpack(type, weight.data, 37, columns), dequantize(weight))


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", QUANTISED)
def test_product_of_the_quantised_activations(isa: str, type: str) -> None:
    for columns in columns_of(type):
        check_product(isa, random_weight(type, 37, columns), activations(13, columns))


def check_product(isa: str, weight: Weight, x: np.ndarray) -> None:
    y, _ = _native.matmul(isa, weight.type, weight.data, weight.shape[0], x)
    q, w = _native.quantized(isa, weight.type, x).astype(np.float64), dequantize(weight).astype(np.float64)
    assert np.all(np.abs(y - q @ w.T) <= 2e-6 * (np.abs(q) @ np.abs(w).T) + 1e-30)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", QUANTISED)
@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
def test_extreme_codes_do_not_saturate(isa: str, type: str, fill: int) -> None:
    """The largest codes of either sign times the largest activations must fit in sums of 16 bits."""
    columns = max(256, FORMATS[type].block_size)
    x = np.ones((4, columns), np.float32)
    x[1], x[2, ::2] = -1, -1
    check_product(isa, random_weight(type, 16, columns, fill=fill), x)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", DENSE)
def test_dense_product(isa: str, type: str) -> None:
    weight, x = random_weight(type, 37, 96), activations(13, 96)
    y, _ = _native.matmul(isa, type, weight.data, 37, x)
    size = np.abs(x).astype(np.float64) @ np.abs(dequantize(weight)).astype(np.float64).T
    assert np.all(np.abs(y - x.astype(np.float64) @ dequantize(weight).astype(np.float64).T) <= 2e-6 * size + 1e-30)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", QUANTISED)
def test_quantised_activations_are_within_half_a_step(isa: str, type: str) -> None:
    x = activations(5, 512)
    group, _ = _native.act_spec(type)
    groups = x.reshape(5, -1, group)
    step = np.abs(groups).max(-1, keepdims=True) / 127
    error = np.abs(_native.quantized(isa, type, x).reshape(groups.shape) - groups)
    assert np.all(error <= step * 0.5001 + 1e-30)


@pytest.mark.parametrize("type", QUANTISED + DENSE)
def test_same_bits_for_every_tile_and_instruction_set(type: str) -> None:
    columns = 512
    weight, x = random_weight(type, 48, columns), activations(70, columns)
    want, _ = _native.matmul(_native.isas()[0], type, weight.data, 48, x)
    for isa in _native.isas():
        for tile in (1, 2, 3, 4, 7, 12, 13, 16, 17, 23, 64):
            got, _ = _native.matmul(isa, type, weight.data, 48, x, tile)
            np.testing.assert_array_equal(got, want, err_msg=f"{isa}, tiles of {tile}")


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", QUANTISED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_activation_shows_and_stays_in_its_row(isa: str, type: str, bad: float) -> None:
    weight, x = random_weight(type, 32, 768), activations(9, 768)
    want, _ = _native.matmul(isa, type, weight.data, 32, x)
    x[4, 300] = bad
    got, _ = _native.matmul(isa, type, weight.data, 32, x)
    assert np.isnan(got[4]).all()
    np.testing.assert_array_equal(np.delete(got, 4, 0), np.delete(want, 4, 0))
