"""Where tests/cuda runs: in Triton's interpreter, or on a GPU with OCTAVO_TEST_GPU=1 (scripts/device does that)."""

from __future__ import annotations

import os

import torch

GPU = os.environ.get("OCTAVO_TEST_GPU") == "1"
APART = 10 if GPU else 1  # times the distance that numpy's functions allow: a GPU's exp and division have more error
DEVICE = torch.device("cuda" if GPU else "cpu")


def on_device(array: object) -> torch.Tensor:
    """A copy of a numpy array, or of a tensor, where kernels read it."""
    found = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
    return found.to(DEVICE)
