"""Writes GGUF files (version 3, little endian): the metadata of an artifact, and the tests' models.

Source: the GGUF specification (ggml/docs/gguf.md). Python values get the types that llama.cpp expects: int is u32 (i32
when negative, 64 bits when it must be), float is f32, bool, str; numpy scalars and arrays keep their type.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from octavo.ir import ROWS, Weight
from octavo.weights.formats import FORMATS, GGUF_TYPES
from octavo.weights.gguf_values import ARRAY, SCALARS, STRING

KINDS = {np.dtype(code).newbyteorder("<"): kind for kind, code in SCALARS.items()}


def write_gguf(path: str | Path, metadata: Mapping[str, Any], tensors: Mapping[str, Weight]) -> None:
    """Writes a GGUF file; it appears under `path` complete or not at all. Tensors are streamed from their maps."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _write(file, metadata, tensors)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: BinaryIO, metadata: Mapping[str, Any], tensors: Mapping[str, Weight]) -> None:
    alignment = int(metadata.get("general.alignment", 32))
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        file.write(_text(key) + encode_value(value))
    offset = 0
    for name, weight in tensors.items():
        assert weight.layout == ROWS, f"{name}: GGUF has no panels"
        assert weight.type in GGUF_TYPES, f"{name}: GGUF has no {weight.type}"
        file.write(_tensor_entry(name, weight, offset))
        offset = _align(offset + weight.data.nbytes, alignment)
    for weight in tensors.values():
        file.write(bytes(_align(file.tell(), alignment) - file.tell()))
        file.write(weight.data.data)
    file.write(bytes(_align(file.tell(), alignment) - file.tell()))


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _tensor_entry(name: str, weight: Weight, offset: int) -> bytes:
    dims = weight.shape[::-1]  # innermost first
    head = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return _text(name) + head + struct.pack("<IQ", FORMATS[weight.type].id, offset)


def encode_value(value: Any) -> bytes:
    """Type id and bytes of a metadata value. Raises TypeError for what GGUF cannot hold."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bytes):  # text in another encoding than UTF-8, as a source may have it
        return struct.pack("<I", STRING) + _bytes(value)
    if isinstance(value, bool | int | float | np.generic):
        array = _numbers([value] if not isinstance(value, np.generic) else np.asarray([value]))
        return struct.pack("<I", KINDS[array.dtype]) + array.tobytes()
    if isinstance(value, Sequence) and value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    if isinstance(value, Sequence | np.ndarray):
        array = _numbers(value)
        return struct.pack("<IIQ", ARRAY, KINDS[array.dtype], len(array)) + array.tobytes()
    raise TypeError(f"GGUF metadata cannot hold a {type(value).__name__}")


def _numbers(values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A little-endian array of the smallest fitting type of: what numpy has, bool, f32, u32, i32, u64, i64."""
    if isinstance(values, np.ndarray):
        array = values.astype(values.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in KINDS or array.ndim != 1:
            raise TypeError(f"GGUF metadata cannot hold an array of {array.dtype} with {array.ndim} dims")
        return array
    if all(isinstance(v, bool) for v in values):
        return np.array(values, "?")
    if any(isinstance(v, float) for v in values):
        return np.array(values, "<f4")
    low, high = min(values, default=0), max(values, default=0)
    narrow = low >= -(2**31) and high < (2**31 if low < 0 else 2**32)
    return np.array(values, ("<i" if low < 0 else "<u") + ("4" if narrow else "8"))
