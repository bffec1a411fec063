"""Feeds mutated GGUF files to the reader: python -m tests.fuzz.fuzz_gguf --iterations 1000000 --seed 1"""

from __future__ import annotations

import json
from pathlib import Path

from octavo.weights.dequantize import dequantize
from octavo.weights.gguf import open_gguf
from octavo.weights.gguf_values import StringArray
from octavo.weights.summary import summarise
from tests.fuzz.mutate import main
from tests.unit.weights.tiny import write_tiny


def make(folder: Path) -> tuple[bytes, int, Path]:
    path = write_tiny(folder / "tiny.gguf")
    tensors = open_gguf(path).tensors.values()
    return path.read_bytes(), path.stat().st_size - sum(w.data.nbytes for w in tensors), path


def read(path: Path) -> None:
    """Opens the file and reads everything that was accepted."""
    with open_gguf(path) as file:
        json.dumps(summarise(file))
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                assert len(list(value)) == len(value)
        for weight in file.tensors.values():
            assert dequantize(weight).shape == weight.shape


if __name__ == "__main__":
    main(make, read)
