"""Feeds mutated safetensors files to the reader: python -m tests.fuzz.fuzz_safetensors --iterations 1000000"""

from __future__ import annotations

from pathlib import Path

from octavo.weights.dequantize import dequantize
from octavo.weights.safetensors import open_safetensors
from tests.fuzz.mutate import main
from tests.unit.weights.tiny import write_folder


def make(folder: Path) -> tuple[bytes, int, Path]:
    path = write_folder(folder) / "model.safetensors"
    raw = path.read_bytes()
    return raw, 8 + int.from_bytes(raw[:8], "little"), path


def read(path: Path) -> None:
    with open_safetensors(path) as folder:
        for weight in folder.tensors.values():
            assert dequantize(weight).shape == weight.shape


if __name__ == "__main__":
    main(make, read)
