"""GGUF's metadata values, read with every count and length checked against what is left of the file.

Source: the GGUF specification (ggml/docs/gguf.md). Layout of a string: length u64, bytes; of an array: item type u32,
count u64, items. The limits bound the memory and time that a hostile file can cost. Metadata of real models is 10 to
1,000 times smaller.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, overload

import numpy as np

from octavo.errors import ModelFileError
from octavo.weights.checkpoint import Bytes

SCALARS: dict[int, str] = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9

MAX_ENTRIES = 1 << 16  # key-value pairs, and tensors: at about 600 bytes each, under 40 MB of Python objects
MAX_NAME = (1 << 16) - 1  # bytes of a key; the specification's limit
MAX_TEXT = 1 << 22  # bytes of a string value outside an array; chat templates are a few KB
MAX_STRINGS = 1 << 22  # strings in the arrays of a file, 0.6 s to scan; Gemma's vocabulary has 262,144

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_STRUCTS = {kind: struct.Struct("<" + code) for kind, code in SCALARS.items()}


class StringArray(Sequence[str]):
    """An array of strings inside the map, decoded on access. Opening a vocabulary of 150,000 costs one scan of
    lengths."""

    def __init__(self, data: Bytes, starts: array[int], where: str):
        self._data = data.data
        self._starts = starts  # starts[i]: first byte of string i; starts[-1]: 8 bytes past the last string's end
        self._where = where

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self._decode(i, self._starts[i], self._starts[i + 1] - 8)

    def __iter__(self) -> Iterator[str]:
        data, starts = self._data, self._starts
        try:
            # One line for speed; the slow path below finds the faulty string.
            yield from [str(data[a : b - 8], "utf-8") for a, b in itertools.pairwise(starts)]
        except UnicodeDecodeError:
            for i in range(len(self)):
                self[i]
            raise

    def readable(self) -> list[str]:
        """All strings, with U+FFFD for what is not UTF-8."""
        return [str(self._data[a : b - 8], "utf-8", "replace") for a, b in itertools.pairwise(self._starts)]

    def _decode(self, i: int, start: int, stop: int) -> str:
        try:
            return str(self._data[start:stop], "utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{self._where}, item {i}: not UTF-8 (byte {error.start})") from error


class Cursor:
    """A position in the header. Every read checks that its bytes exist; errors name the field."""

    def __init__(self, path: Path, data: Bytes):
        self.path = path
        self.data = data
        self.view = data.data
        self.end = len(data)
        self.position = 0
        self.strings = 0

    def fail(self, field: str, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {field}: {problem}")

    def take(self, count: int, field: str) -> int:
        """Moves past `count` bytes and returns where they start."""
        start = self.position
        if count > self.end - start:
            self.fail(field, f"{count} bytes at offset {start} run past the end of the file ({self.end} bytes)")
        self.position = start + count
        return start

    def u32(self, field: str) -> int:
        return int(_u32(self.view, self.take(4, field))[0])

    def u64(self, field: str) -> int:
        return int(_u64(self.view, self.take(8, field))[0])

    def count(self, field: str, item_bytes: int, limit: int | None = None) -> int:
        """A u64 count of items of at least `item_bytes` each, which must fit in what is left of the file."""
        count, room = self.u64(field), (self.end - self.position) // item_bytes
        if count > room:
            self.fail(field, f"{count} items, but the rest of the file has room for {room}")
        if limit is not None and count > limit:
            self.fail(field, f"{count} is over the limit of {limit}")
        return count

    def raw(self, field: str, limit: int) -> bytes:
        count = self.count(f"{field}: length", 1, limit)
        start = self.take(count, field)
        return bytes(self.view[start : start + count])

    def text(self, field: str, limit: int) -> str:
        try:
            return self.raw(field, limit).decode()
        except UnicodeDecodeError as error:
            self.fail(field, f"not UTF-8 (byte {error.start})")

    def text_or_bytes(self, field: str) -> str | bytes:
        raw = self.raw(field, MAX_TEXT)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def value(self, kind: int, field: str) -> Any:
        """A metadata value of GGUF type `kind`: int, float, bool, str, numpy array or StringArray.

        Text that is not UTF-8 stays bytes: whoever needs it refuses it, and mostly nobody does.
        """
        if kind == STRING:
            return self.text_or_bytes(field)
        if kind == ARRAY:
            return self.items(self.u32(f"{field}: item type"), field)
        if kind not in SCALARS:
            self.fail(field, f"unknown value type {kind}")
        start = self.take(_STRUCTS[kind].size, field)
        if kind == BOOL and self.data[start] > 1:
            self.fail(field, f"a bool of value {self.data[start]}")
        return _STRUCTS[kind].unpack_from(self.view, start)[0]

    def items(self, kind: int, field: str) -> Any:
        if kind == STRING:
            return self.string_items(field)
        if kind not in SCALARS:
            self.fail(field, "arrays of arrays are not supported" if kind == ARRAY else f"unknown item type {kind}")
        size = _STRUCTS[kind].size
        count = self.count(f"{field}: count", size)
        raw = self.data[self.take(count * size, field) :][: count * size]
        if kind == BOOL and count and raw.max() > 1:
            self.fail(field, f"a bool of value {raw.max()}")
        return raw.view(np.dtype(SCALARS[kind]).newbyteorder("<"))

    def string_items(self, field: str) -> StringArray:
        count = self.count(f"{field}: count", 8, MAX_STRINGS - self.strings)
        self.strings += count
        starts = array("q", bytes(8 * (count + 1)))
        view, end, position = self.view, self.end - 8, self.position
        for i in range(count):  # the hot loop of opening a file: 0.1 us a string
            if position > end:
                self.fail(f"{field}, item {i}", f"starts past the end of the file ({self.end} bytes)")
            starts[i] = position + 8
            position += 8 + _u64(view, position)[0]
        if position > self.end:
            self.fail(f"{field}, item {count - 1}", f"runs past the end of the file ({self.end} bytes)")
        starts[count] = position + 8
        self.position = position
        return StringArray(self.data, starts, f"{self.path}: {field}")


def read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    """`count` key-value pairs: key string, value type u32, value. Raises ModelFileError."""
    metadata: dict[str, Any] = {}
    for i in range(count):
        key = cursor.text(f"metadata {i}: key", MAX_NAME)
        if not key or key in metadata:
            cursor.fail(f"metadata {i}", f"the key {key!r:.200} comes twice" if key else "the key is empty")
        field = f"metadata {key!r:.200}"
        metadata[key] = cursor.value(cursor.u32(f"{field}: type"), field)
    return metadata
