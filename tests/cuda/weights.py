"""Weights of any encoding."""

from __future__ import annotations

import numpy as np

from octavo.ir import Weight
from octavo.types import F32
from octavo.weights.formats import FORMATS
from tests.quantize import quantize


def encoded(values: F32, type: str) -> Weight:
    """The values in this encoding; for IQ4, which tests/quantize.py does not write, random codes and small scales."""
    if not type.startswith("IQ4"):
        return quantize(values, type, "w")
    format = FORMATS[type]
    rng = np.random.default_rng(values.shape)
    blocks = rng.integers(0, 256, (values.size // format.block_size, format.block_bytes), np.uint8)
    blocks[:, :2] = rng.uniform(1e-4, 1e-3, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return Weight("w", values.shape, type, blocks.reshape(-1))
