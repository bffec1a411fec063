"""The GGUF container (versions 2 and 3, little endian), memory-mapped and checked before anything is used.

Source: the GGUF specification (ggml/docs/gguf.md). Layout: magic, version u32, tensor count u64, metadata count u64,
metadata, tensor entries, padding to the alignment, tensor data. Offsets are relative to the aligned data section and
dims are innermost first. Python's integers cannot overflow, so sums and products are exact before they are compared.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from octavo.errors import ModelFileError
from octavo.ir import Weight
from octavo.weights.checkpoint import Checkpoint, map_file
from octavo.weights.formats import BY_ID, GGUF_TYPES, UNSUPPORTED, Format, tensor_bytes
from octavo.weights.gguf_values import MAX_ENTRIES, MAX_NAME, Cursor, read_metadata

MAGIC = b"GGUF"
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32
SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(eq=False)
class GGUFFile(Checkpoint):
    """An open GGUF file. Values of `metadata` are int, float, bool, str, numpy arrays, StringArray (of str), and bytes
    for a string that is not UTF-8."""

    version: int
    alignment: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as its entry describes it. start: offset in the data section."""

    name: str
    shape: tuple[int, ...]
    format: Format
    start: int
    size: int


def open_gguf(path: str | Path) -> GGUFFile:
    """Opens a GGUF file, or all parts of a split one from any of them. Raises ModelFileError naming file and field."""
    path = Path(path)
    split = SPLIT_NAME.fullmatch(path.name)
    if split is not None:
        return _open_split(path, split["stem"], int(split["count"]))
    file = _open_part(path)
    count = _integer(file, "split.count", 1)
    if count > 1:
        raise ModelFileError(f"{path}: one of {count} parts, which must be named NAME-00001-of-{count:05}.gguf")
    return file


def _open_split(path: Path, stem: str, count: int) -> GGUFFile:
    """Opens all parts; the first has the metadata. Tools that join parts leave a split.count of 0."""
    first: GGUFFile | None = None
    for number in range(1, count + 1):
        part = _open_part(path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf"))
        if count > 1:
            _expect(part, "split.count", count)
            _expect(part, "split.no", number - 1)
        first = first or part
        if part is not first:
            _add_part(first, part)
    assert first is not None
    _expect(first, "split.tensors.count", len(first.tensors))
    return first


def _add_part(first: GGUFFile, part: GGUFFile) -> None:
    if twice := first.tensors.keys() & part.tensors.keys():
        raise ModelFileError(f"{part.path}: tensor {min(twice)!r:.200} is in an earlier part too")
    first.tensors.update(part.tensors)
    first.size += part.size


def _integer(file: GGUFFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if type(value) is not int:
        raise ModelFileError(f"{file.path}: metadata {key!r}: must be an integer")
    return value


def _expect(file: GGUFFile, key: str, wanted: int) -> None:
    if (value := _integer(file, key, wanted)) != wanted:
        raise ModelFileError(f"{file.path}: metadata {key!r} is {value}, not {wanted}")


def _open_part(path: Path) -> GGUFFile:
    cursor = Cursor(path, map_file(path))
    version = _version(cursor)
    # At the least, a tensor is name 9 bytes, dims count 4, one dim 8, type 4, offset 8; a pair key 9, type 4, value 1.
    num_tensors = cursor.count("tensor count", 33, MAX_ENTRIES)
    num_pairs = cursor.count("metadata count", 14, MAX_ENTRIES)
    metadata = read_metadata(cursor, num_pairs)
    alignment = _alignment(cursor, metadata)
    entries = [_read_entry(cursor, i, alignment) for i in range(num_tensors)]
    base = -(-cursor.position // alignment) * alignment
    _check_placement(cursor, entries, base)
    tensors = {}
    for e in entries:
        data = cursor.data[base + e.start : base + e.start + e.size]
        tensors[e.name] = Weight(e.name, e.shape, e.format.name, data)
    return GGUFFile(path, cursor.end, metadata, tensors, version, alignment)


def _version(cursor: Cursor) -> int:
    start = cursor.take(4, "magic")
    if (magic := bytes(cursor.view[start : start + 4])) != MAGIC:
        cursor.fail("magic", f"not a GGUF file (it starts with {magic!r})")
    version = cursor.u32("version")
    if version and version % 65536 == 0:
        cursor.fail("version", "big-endian GGUF files are not supported")
    if version not in (2, 3):
        cursor.fail("version", f"GGUF version {version} is not supported (only 2 and 3 are)")
    return version


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or value < 8 or value & (value - 1):
        cursor.fail("metadata 'general.alignment'", f"must be a power of two of at least 8, not {value!r:.40}")
    return value


def _read_entry(cursor: Cursor, index: int, alignment: int) -> _Entry:
    name = cursor.text(f"tensor {index}: name", MAX_NAME)
    if not name:
        cursor.fail(f"tensor {index}: name", "is empty")
    field = f"tensor {name!r:.200}"
    num_dims = cursor.u32(f"{field}: number of dims")
    if not 1 <= num_dims <= MAX_DIMS:
        cursor.fail(f"{field}: number of dims", f"must be 1 to {MAX_DIMS}, not {num_dims}")
    dims = [cursor.u64(f"{field}: dim {i}") for i in range(num_dims)]
    format = _format(cursor, cursor.u32(f"{field}: type"), field)
    offset = cursor.u64(f"{field}: offset")
    if 0 in dims or prod(dims) >= 1 << 63:
        cursor.fail(f"{field}: dims", f"{dims} make no tensor")
    if dims[0] % format.block_size:
        cursor.fail(f"{field}: dim 0", f"{dims[0]} is not a multiple of {format.name}'s block of {format.block_size}")
    if offset % alignment:
        cursor.fail(f"{field}: offset", f"{offset} is not a multiple of the alignment {alignment}")
    shape = tuple(reversed(dims))
    return _Entry(name, shape, format, offset, tensor_bytes(format, shape))


def _format(cursor: Cursor, kind: int, field: str) -> Format:
    if kind not in BY_ID:
        name = f"{UNSUPPORTED[kind]} is not supported" if kind in UNSUPPORTED else f"{kind} is unknown"
        cursor.fail(f"{field}: type", f"{name} (supported: {', '.join(GGUF_TYPES)})")
    return BY_ID[kind]


def _check_placement(cursor: Cursor, entries: list[_Entry], base: int) -> None:
    """Tensors must have unique names, lie inside the file and not overlap. base: start of the data section."""
    names: set[str] = set()
    for e in entries:
        if e.name in names:
            cursor.fail(f"tensor {e.name!r:.200}", "the name comes twice")
        names.add(e.name)
        if base + e.start + e.size > cursor.end:
            place = f"offset {e.start} + size {e.size} (data section at {base})"
            cursor.fail(f"tensor {e.name!r:.200}", f"{place} is past the end of the file ({cursor.end} bytes)")
    ordered = sorted(entries, key=lambda e: e.start)
    for a, b in itertools.pairwise(ordered):
        if a.start + a.size > b.start:
            cursor.fail(
                f"tensor {b.name!r:.200}",
                f"offset {b.start} overlaps tensor {a.name!r:.200} ({a.start} + {a.size} bytes)",
            )
