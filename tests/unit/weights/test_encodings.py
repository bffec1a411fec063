"""The encodings against the `gguf` package, or (our own) against a plain reader, and against their definition."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.errors import ConfigError
from octavo.ir import Weight
from octavo.weights.dequantize import CHUNK, UNPACK, Factors, dequantize, dequantize_rows, unpack
from octavo.weights.formats import BY_ID, FORMATS, GGUF_TYPES, UNSUPPORTED, tensor_bytes
from tests.models import model_path
from tests.quantize import QUANTIZE, quantize
from tests.unit.weights.tiny import random_weight

gguf = pytest.importorskip("gguf")


def plain(type: str, block: bytes) -> list[float]:
    """A block of our own encodings, as native/pack.h describes them; float64 rounds nothing here."""
    if type.startswith("U4"):
        d, zero = struct.unpack_from("<2e", block)
        return [d * code - d * zero for byte in block[4:] for code in (byte & 15, byte >> 4)]
    (d,) = struct.unpack_from("<f", block)
    return [d * code for code in struct.unpack_from(f"{len(block) - 4}b", block, 4)]


def oracle(weight: Weight) -> NDArray[np.float32]:
    if weight.type not in GGUF_TYPES:
        blocks = weight.data.reshape(-1, FORMATS[weight.type].block_bytes)
        values = np.array([plain(weight.type, block.tobytes()) for block in blocks])
        with np.errstate(over="ignore"):
            return values.astype(np.float32).reshape(weight.shape)
    with np.errstate(all="ignore"):
        values = gguf.dequantize(weight.data.reshape(weight.shape[0], -1), gguf.GGMLQuantizationType[weight.type])
    return np.asarray(values, np.float32)


def test_table_is_ggmls() -> None:
    for format in BY_ID.values():
        assert format.id is not None
        kind = gguf.GGMLQuantizationType(format.id)
        assert (format.name, gguf.GGML_QUANT_SIZES[kind]) == (kind.name, (format.block_size, format.block_bytes))
    assert all(gguf.GGMLQuantizationType(id).name == name for id, name in UNSUPPORTED.items())
    assert not UNSUPPORTED.keys() & BY_ID.keys()
    assert tensor_bytes(FORMATS["Q4_K"], (2, 3, 512)) == 2 * 3 * 2 * 144


@pytest.mark.parametrize("type", FORMATS)
def test_dequantize_is_bitwise_the_oracle(type: str) -> None:
    weight = random_weight(type, rows=160, columns=1024)  # more than one chunk
    assert CHUNK < 160 * 1024
    wanted = oracle(weight)
    assert np.isfinite(wanted).mean() > 0.9
    assert np.array_equal(dequantize(weight), wanted, equal_nan=True)


@pytest.mark.parametrize("type", FORMATS)
def test_rows_are_those_of_the_whole(type: str) -> None:
    weight = random_weight(type, rows=7, columns=512)
    whole = dequantize(weight)
    for rows in (np.array([3, 0, 3]), slice(2, 5), np.array([], np.int64)):
        assert np.array_equal(dequantize_rows(weight, rows), whole[rows], equal_nan=True)
    with pytest.raises(IndexError):
        dequantize_rows(weight, np.array([7]))


def test_shapes_of_vectors_and_experts() -> None:
    vector = Weight("v", (64,), "Q8_0", random_weight("Q8_0", 1, 64).data)
    experts = Weight("e", (2, 3, 64), "Q8_0", random_weight("Q8_0", 6, 64).data)
    assert dequantize(vector).shape == (64,) and dequantize(experts).shape == (2, 3, 64)


@pytest.mark.parametrize("type", UNPACK)
def test_unpack_is_scale_times_code_plus_offset(type: str) -> None:
    weight = random_weight(type, rows=4, columns=512)
    codes, scales, offsets = unpack(type, weight.data.reshape(-1, FORMATS[type].block_bytes))
    assert codes.dtype == np.int8

    def product(factors: Factors) -> NDArray[np.float32]:  # of a block's number and its groups' numbers
        block, groups = factors
        assert block.shape == (len(codes), 1) and (groups is None or groups.shape == codes.shape[:2])
        made: NDArray[np.float32] = block if groups is None else block * np.float32(groups)
        return made[..., None]

    with np.errstate(all="ignore"):
        values = codes * product(scales) + (0 if offsets is None else product(offsets))
    assert np.array_equal(values.reshape(4, 512), oracle(weight), equal_nan=True)


# Root-mean-square error of normal noise, relative: what b bits give, with a margin of 3 %.
ERRORS = {
    "F32": 0.0, "F16": 2.2e-4, "BF16": 1.75e-3, "Q4_0": 0.0885, "Q4_1": 0.0805, "Q5_0": 0.0440, "Q5_1": 0.0390,
    "Q8_0": 0.0055, "Q2_K": 0.34, "Q3_K": 0.16, "Q4_K": 0.081, "Q5_K": 0.0395, "Q6_K": 0.0194,
    "U4_32": 0.0845, "U4_64": 0.1, "U4_128": 0.11, "I8_64": 0.0065, "I8_128": 0.0075,
}  # fmt: skip


@pytest.mark.parametrize("type", QUANTIZE)
def test_quantize_is_as_near_as_the_bits_allow(type: str) -> None:
    values = np.random.default_rng(1).normal(size=(160, 1024)).astype(np.float32) * 0.05
    weight = quantize(values, type, "w")
    assert (weight.name, weight.shape, weight.type) == ("w", (160, 1024), type)
    back = dequantize(weight)
    assert np.array_equal(back, oracle(weight))
    assert np.sqrt(((back - values) ** 2).mean() / (values**2).mean()) <= ERRORS[type]


@pytest.mark.parametrize("type", QUANTIZE)
def test_quantize_twice_is_quantize_once(type: str) -> None:
    once = dequantize(quantize(np.random.default_rng(2).normal(size=(4, 256)), type))
    twice = dequantize(quantize(once, type))
    assert np.abs(twice - once).max() <= ERRORS[type] * 2 * np.abs(once).max()


@pytest.mark.parametrize("type", QUANTIZE)
@pytest.mark.parametrize("value", [0.0, 0.75, -0.75])
def test_quantize_constant_rows(type: str, value: float) -> None:
    back = dequantize(quantize(np.full((2, 256), value), type))
    assert np.allclose(back, value, rtol=0.02, atol=0)


def test_bf16_rounds_to_even_and_keeps_nan() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7FFFFFFF, 0xFF800000], np.uint32)
    rounded = quantize(bits.view(np.float32), "BF16").data.view("<u2")
    assert [hex(x) for x in rounded] == ["0x3f80", "0x3f82", "0x3f81", "0x7fff", "0xff80"]


def test_quantize_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="choose one of F32"):
        quantize(np.zeros((2, 256)), "IQ4_XS")
    with pytest.raises(ConfigError, match="rows must be a multiple of 256"):
        quantize(np.zeros((2, 128)), "Q4_K")


@pytest.mark.parametrize("alias", ["smollm2-135m", "gemma3-270m"])
def test_real_tensors_are_the_oracles(alias: str) -> None:
    from octavo.weights.gguf import open_gguf

    seen: set[str] = set()
    for weight in open_gguf(model_path(alias)).tensors.values():
        if weight.type in seen or len(weight.shape) == 1:
            continue
        seen.add(weight.type)
        part = slice(0, min(weight.shape[0], 256))
        rows = weight.data.reshape(weight.shape[0], -1)[part]
        sample = Weight(weight.name, (len(rows), weight.shape[1]), weight.type, rows.reshape(-1))
        assert np.array_equal(dequantize_rows(weight, part), oracle(sample))
    assert len(seen) >= 2
