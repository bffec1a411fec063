"""Safetensors folders: we read what the library writes, and the error for a bad file names the field."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo.errors import ModelFileError
from octavo.weights import open_checkpoint
from octavo.weights.dequantize import dequantize
from octavo.weights.safetensors import INDEX, SafetensorsFolder, open_safetensors
from tests.unit.weights.tiny import folder_config, write_folder


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    folder = open_checkpoint(write_folder(tmp_path))
    assert isinstance(folder, SafetensorsFolder) and folder.metadata == folder_config()
    wanted = load_file(tmp_path / "model.safetensors")
    assert folder.tensors.keys() == wanted.keys()
    assert [w.type for w in (folder.tensors[n] for n in sorted(wanted))] == ["F32", "F16", "BF16"]
    for name, values in wanted.items():
        assert folder.tensors[name].shape == values.shape
        assert np.array_equal(dequantize(folder.tensors[name]), values.astype(np.float32))
        assert not folder.tensors[name].data.flags.owndata  # mapped, not copied
    assert open_checkpoint(tmp_path / "model.safetensors").tensors.keys() == wanted.keys()


def test_reads_an_index(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    ones = np.ones((2, 2), np.float32)
    files = {"model-00001-of-00002.safetensors": {"x": ones}, "model-00002-of-00002.safetensors": {"y": 2 * ones}}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / name)
    index = {"weight_map": {t: name for name, tensors in files.items() for t in tensors}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    folder = open_safetensors(tmp_path)
    assert sorted(folder.tensors) == ["x", "y"] and dequantize(folder.tensors["y"]).sum() == 8
    index["weight_map"]["z"] = "model-00001-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="tensor 'z' is not in model-00001"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 3])
def test_index_cannot_leave_the_folder(tmp_path: Path, name: Any) -> None:
    write_folder(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelFileError, match=r"weight_map\['x'\] must name a .safetensors file"):
        open_safetensors(tmp_path)


def test_unaligned_data_is_copied_into_place(tmp_path: Path) -> None:
    write_folder(tmp_path)
    entry = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(entry).encode()
    header += b" " * ((1 - len(header)) % 4)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + np.array([1, 2], "<f4").tobytes())
    weight = open_safetensors(tmp_path).tensors["x"]
    assert weight.data.ctypes.data % 4 == 0 and dequantize(weight).tolist() == [1, 2]


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


BAD_HEADERS: dict[str, tuple[Any, str]] = {
    "dtype unknown": ({"x": entry("I32")}, "tensor 'x': dtype: 'I32' is not supported (supported: F32, F16, BF16)"),
    "dtype not text": ({"x": entry(["F32"])}, "tensor 'x': dtype"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 16]}}, "tensor 'x': entry: must have dtype, shape"),
    "extra field": ({"x": entry(more=1)}, "tensor 'x': entry"),
    "entry not an object": ({"x": [1]}, "tensor 'x': entry"),
    "shape empty": ({"x": entry(shape=[])}, "tensor 'x': shape"),
    "shape with 0": ({"x": entry(shape=[0, 4])}, "tensor 'x': shape: must be 1 to 8 positive integers, not [0, 4]"),
    "shape negative": ({"x": entry(shape=[-2, -2])}, "tensor 'x': shape"),
    "shape of bools": ({"x": entry(shape=[True, 4])}, "tensor 'x': shape"),
    "shape of floats": ({"x": entry(shape=[2.0, 2])}, "tensor 'x': shape"),
    "shape overflows": ({"x": entry(shape=[2**62, 4])}, "tensor 'x': data_offsets: [0, 16) is not the"),
    "too many dims": ({"x": entry(shape=[1] * 9)}, "tensor 'x': shape"),
    "offsets reversed": ({"x": entry(offsets=[16, 0])}, "tensor 'x': data_offsets: [16, 0) is not the 16 bytes"),
    "offsets wrong size": ({"x": entry(offsets=[0, 12])}, "is not the 16 bytes of F32 [2, 2]"),
    "offsets negative": ({"x": entry(offsets=[-16, 0])}, "tensor 'x': data_offsets: must be two integers"),
    "offsets of three": ({"x": entry(offsets=[0, 8, 16])}, "tensor 'x': data_offsets"),
    "past the end": ({"x": entry(offsets=[16, 32])}, "[16, 32) is past the end of the data (16 bytes)"),
    "hole": ({"x": entry("F16", [4], [8, 16])}, "[8, 16) leaves a hole after 0"),
    "overlap": ({"x": entry(), "y": entry("F16", [4], [8, 16])}, "tensor 'y': data_offsets: [8, 16) overlaps"),
    "tail": ({"x": entry("F16", [4], [0, 8])}, "8 bytes after the last tensor belong to none"),
    "a list": ([1], "header: must be a JSON object"),
}

BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "short": (b"\1\0\0", "header length: the file has only 3 bytes"),
    "length huge": (struct.pack("<Q", 2**64 - 1) + b"{}", "header length: 18446744073709551615 bytes"),
    "length over": (struct.pack("<Q", 3) + b"{}", "header length: 3 bytes, but the file has 10"),
    "length over the limit": (struct.pack("<Q", 1 << 25) + bytes(1 << 25), "header length: 33554432 bytes"),
    "not JSON": (struct.pack("<Q", 2) + b"{:", "header: not valid JSON"),
    "not UTF-8": (struct.pack("<Q", 5) + b'{"\xff":', "header: not valid JSON"),
    "twice": (struct.pack("<Q", 15) + b'{"x":1, "x": 2}', "the key 'x' comes twice"),
    "deep": (struct.pack("<Q", 200_000) + b"[" * 200_000, "header: not valid JSON"),
    "a long number": (struct.pack("<Q", 9_006) + b'{"x":' + b"9" * 9_000 + b"}", "header: not valid JSON"),
}


def refuse(tmp_path: Path, raw: bytes, message: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelFileError, match=re.escape(message)) as caught:
        open_safetensors(tmp_path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_entry_is_named(tmp_path: Path, case: str) -> None:
    header, message = BAD_HEADERS[case]
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    refuse(tmp_path, struct.pack("<Q", len(raw)) + raw + bytes(16), message)


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_bytes_are_refused(tmp_path: Path, case: str) -> None:
    refuse(tmp_path, *BAD_BYTES[case])


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path) / "model.safetensors"
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(ModelFileError):
            open_safetensors(tmp_path)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"needs a config.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelFileError, match=r"config.json: must be a JSON object"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"0 .safetensors files and no model.safetensors.index.json"):
        open_checkpoint(tmp_path)
