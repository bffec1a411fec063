"""Layouts of model folders: tests/data/layouts/NAME.json holds a config.json, tensor entries, and what they compute.

The values of the tensors are not stored. `values` makes them from their names, here and for the oracle that wrote the
files (make_layouts.py), so that a layout takes a few kilobytes.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

DATA = Path(__file__).parents[1] / "data" / "layouts"
IDS = [(7 * i * i + 3 * i + 1) % 31 + 1 for i in range(48)]  # all layouts have 32 tokens
ROWS = list(range(5, len(IDS), 6))  # the positions whose log-probabilities are stored
DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# File -> tensor -> (dtype, shape), and if it holds the values of another tensor, that one's name.
Files = dict[str, dict[str, tuple[str, list[int]] | tuple[str, list[int], str]]]


def load_layout(name: str) -> dict[str, Any]:
    layout: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return layout


def values(name: str, dtype: str, shape: list[int], gemma: bool = False) -> NDArray[Any]:
    """Pseudo-random values fixed by `name`. Norms are around 1, or around 0 for Gemma, which adds 1 to them."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    uniform = (x >> np.uint64(40)).astype(np.float64).reshape(shape) / (1 << 23) - 1  # in [-1, 1)
    if len(shape) > 1:
        gain = 3.0 if "q_proj" in name or "k_proj" in name or "lm_head" in name else 1.7
        made = uniform * gain / np.sqrt(shape[-1])
    elif name.endswith("norm.weight"):
        made = 0.3 * uniform + (0.0 if gemma else 1.0)
    else:
        made = 0.5 * uniform
    return made.astype(DTYPES[dtype])


def write_tensors(folder: Path, files: Files, gemma: bool) -> None:
    for file, tensors in files.items():
        arrays = {
            name: values(alias[0] if alias else name, dtype, shape, gemma)
            for name, (dtype, shape, *alias) in tensors.items()
        }
        save_file(arrays, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": {name: file for file, tensors in files.items() for name in tensors}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_layout(folder: Path, name: str) -> Path:
    """The model folder of a stored layout."""
    layout = load_layout(name)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(layout["config"]))
    write_tensors(folder, layout["files"], "gemma" in layout["config"]["model_type"])
    return folder
