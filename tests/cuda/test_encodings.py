"""The layout loses nothing, and the kernel that decodes it gives the file's values, bit for bit, for every encoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.backends.cuda import layout
from octavo.backends.cuda.encodings import ENCODINGS, STEP, arrange, decode, padded
from octavo.backends.cuda.kernels import embed
from octavo.backends.cuda.launch import Launch
from octavo.ir import Weight
from octavo.weights.dequantize import dequantize
from octavo.weights.formats import FORMATS
from tests.cuda.weights import encoded
from tests.cuda.where import DEVICE, on_device


def weight(type: str, rows: int = 5, superblocks: int = 1) -> Weight:
    """A K that is not whole superblocks, where the encoding allows it."""
    block = FORMATS[type].block_size
    columns = 256 * superblocks + (block if block < 256 else 256)
    values = np.random.default_rng(len(type)).standard_normal((rows, columns)).astype(np.float32)
    return encoded(values, type)


@pytest.mark.parametrize("type", ENCODINGS)
def test_the_layout_loses_nothing(type: str) -> None:
    w = weight(type)
    found = decode(arrange(w), ENCODINGS[type], w.shape[1])
    assert found.tobytes() == dequantize(w).tobytes()


@pytest.mark.parametrize("type", ENCODINGS)
def test_embedding_gives_the_files_values(type: str) -> None:
    w, ids = weight(type), np.array([4, 0, 4, 2], np.int32)
    given = np.array([4, -2, 4, 2], np.int32)  # the second: what row 1 of the step before chose
    chosen = on_device(np.array([[9] * 4, [0, 9, 9, 9]], np.int32))
    table = layout.matrix([w], DEVICE)
    out = torch.full((4, w.shape[1] + 3), float("nan"), device=DEVICE)
    columns = padded(w.shape[1])
    arguments = (out, on_device(given), chosen, table.data, layout.levels(DEVICE), 1.0, 3, w.shape[1], out.stride(0))
    constants = {"COLUMNS": columns, "FORMAT": table.encoding, "ROWS": 2}
    Launch(embed.embed, (2, columns // 256), arguments, constants)()
    assert out[:3, : w.shape[1]].cpu().numpy().tobytes() == dequantize(w)[ids[:3]].tobytes()
    assert torch.isnan(out[3]).all() and torch.isnan(out[:, w.shape[1] :]).all(), "nothing else is written"


@pytest.mark.parametrize(("type", "bits"), [("Q4_K", 4.625), ("Q6_K", 6.5625), ("Q8_0", 8.5), ("Q2_K", 3.125)])
def test_codes_keep_their_bits(type: str, bits: float) -> None:
    w = weight(type, rows=64)
    assert layout.matrix([w], DEVICE).nbytes * 8 == 64 * padded(w.shape[1]) * bits


def test_several_weights_are_one_matrix() -> None:
    parts = [weight("Q5_K", rows) for rows in (3, 8)]
    made = layout.matrix(parts, DEVICE)
    for tensor, *arrays in zip(made.data, *map(arrange, parts), strict=True):
        assert tensor is None or tensor.cpu().numpy().tobytes() == np.concatenate(arrays).tobytes()


def test_32_columns_are_32_bytes_and_a_shift() -> None:
    """What kernels/weights.py relies on."""
    codes = arrange(weight("Q4_1", rows=1)).codes[0]
    w = dequantize(weight("Q4_1", rows=1))[0]
    low = codes[:STEP] & 15  # columns 0 to 31, which share a scale
    assert (np.argsort(w[:STEP], kind="stable") == np.argsort(low, kind="stable")).all()
