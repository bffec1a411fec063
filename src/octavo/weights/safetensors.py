"""A Hugging Face model folder: config.json and safetensors files, memory-mapped and checked before anything is used.

Source: the safetensors format description (huggingface/safetensors). Layout: header length u64, header (a JSON object:
name -> dtype, shape, data_offsets [begin, end) in the data section; "__metadata__" -> strings), data. The ranges must
cover the data section exactly: no overlap, no hole, nothing after the end.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from octavo.errors import ModelFileError
from octavo.ir import Weight
from octavo.weights.checkpoint import Bytes, Checkpoint, map_file
from octavo.weights.formats import FORMATS

DTYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # safetensors' name -> GGUF's
MAX_HEADER = 1 << 24  # 16 MiB: about 100,000 tensors
MAX_JSON = 1 << 26  # config and index files
MAX_DIMS = 8
INDEX = "model.safetensors.index.json"


@dataclass(eq=False)
class SafetensorsFolder(Checkpoint):
    """An open model folder. `metadata` is config.json; tensor names are the folder's own."""


def open_safetensors(path: str | Path) -> SafetensorsFolder:
    """Opens a model folder (or one .safetensors file with a config.json beside it). Raises ModelFileError."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json")
    wanted = _weight_map(folder) if path.is_dir() else None
    files = sorted(set(wanted.values())) if wanted else [path.name] if not path.is_dir() else [_only_file(folder)]
    tensors: dict[str, Weight] = {}
    size = 0
    for name in files:
        data = map_file(folder / name)
        size += len(data)
        _add(tensors, _read_tensors(folder / name, data), folder / name)
    if wanted and (missing := wanted.keys() - tensors.keys()):
        raise ModelFileError(f"{folder / INDEX}: tensor {min(missing)!r} is not in {wanted[min(missing)]}")
    return SafetensorsFolder(path, size, config, tensors)


def _add(tensors: dict[str, Weight], more: dict[str, Weight], path: Path) -> None:
    if twice := tensors.keys() & more.keys():
        raise ModelFileError(f"{path}: tensor {min(twice)!r} is in another file too")
    tensors.update(more)


def _only_file(folder: Path) -> str:
    """The file of a folder without an index: model.safetensors, or the only one there is."""
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    if "model.safetensors" in names:
        return "model.safetensors"
    if len(names) != 1:
        raise ModelFileError(f"{folder}: {len(names)} .safetensors files and no {INDEX}")
    return names[0]


def _weight_map(folder: Path) -> dict[str, str] | None:
    """The index's tensor name -> file name, or None when the folder has no index."""
    if not (folder / INDEX).exists():
        return None
    weights = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelFileError(f"{folder / INDEX}: 'weight_map' must be an object with at least one tensor")
    for name, file in weights.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelFileError(
                f"{folder / INDEX}: weight_map[{name!r}] must name a .safetensors file, not {file!r:.80}"
            )
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelFileError."""
    return _object(parse_json(path), str(path))


def parse_json(path: Path) -> Any:
    """The JSON value in a file. Raises ModelFileError."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.stat().st_size > MAX_JSON:
        raise ModelFileError(f"{path}: {path.stat().st_size} bytes is over the limit of {MAX_JSON}")
    return _parse(path.read_bytes(), str(path))


def _parse(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or a repeated key
        raise ModelFileError(f"{where}: not valid JSON ({error})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: must be a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} comes twice")
    return result


def _read_tensors(path: Path, data: Bytes) -> dict[str, Weight]:
    header, base = _read_header(path, data)
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _check_entry(path, name, entry)
        if end > len(data) - base:
            _fail(
                path, name, "data_offsets", f"[{begin}, {end}) is past the end of the data ({len(data) - base} bytes)"
            )
        spans.append((begin, end, name))
        tensors[name] = Weight(name, shape, dtype, _aligned(data[base + begin : base + end], dtype))
    _check_cover(path, spans, len(data) - base)
    return tensors


def _read_header(path: Path, data: Bytes) -> tuple[dict[str, Any], int]:
    """The header, and the offset of the data section."""
    if len(data) < 8:
        raise ModelFileError(f"{path}: header length: the file has only {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    if length > min(len(data) - 8, MAX_HEADER):
        raise ModelFileError(
            f"{path}: header length: {length} bytes, but the file has {len(data)} and the limit is {MAX_HEADER}"
        )
    where = f"{path}: header"
    return _object(_parse(data[8 : 8 + length].tobytes(), where), where), 8 + length


def _check_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _fail(path, name, "entry", "must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _fail(path, name, "dtype", f"{dtype!r:.40} is not supported (supported: {', '.join(DTYPES)})")
    if not _naturals(shape) or not 1 <= len(shape) <= MAX_DIMS or 0 in shape:
        _fail(path, name, "shape", f"must be 1 to {MAX_DIMS} positive integers, not {shape!r:.80}")
    if not _naturals(offsets) or len(offsets) != 2:
        _fail(path, name, "data_offsets", f"must be two integers, not {offsets!r:.80}")
    begin, end = offsets
    size = prod(shape) * FORMATS[DTYPES[dtype]].block_bytes
    if end - begin != size:
        _fail(path, name, "data_offsets", f"[{begin}, {end}) is not the {size} bytes of {dtype} {shape}")
    return DTYPES[dtype], tuple(shape), begin, end


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _aligned(data: Bytes, dtype: str) -> Bytes:
    """A view of the bytes in the map, or a copy if an old writer left the data section unaligned."""
    return data if data.ctypes.data % FORMATS[dtype].block_bytes == 0 else data.copy()


def _check_cover(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps another tensor" if begin < position else f"leaves a hole after {position}"
            _fail(path, name, "data_offsets", f"[{begin}, {end}) {problem}")
        position = end
    if position != size:
        raise ModelFileError(f"{path}: {size - position} bytes after the last tensor belong to none")


def _fail(path: Path, name: str, field: str, problem: str) -> NoReturn:
    raise ModelFileError(f"{path}: tensor {name!r:.200}: {field}: {problem}")
