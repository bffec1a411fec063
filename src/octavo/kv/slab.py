"""The file of the disk tier: a header, a table of slots, and the slots' payloads. Each payload is one KV block.

    header   magic, format, block bytes, slots, fingerprint, title, checksum           one page
    table    an entry a slot: key 32, generation 8, length 8, checksum 4               64 bytes each
    payload  slot after slot, each at a multiple of a page

Nothing is ever synced to the disk, and a process may be killed at any time. So an entry's checksum is over its fields
and its payload, and the payload is written first. What is torn, damaged or overwritten meanwhile fails its checksum,
and then the slot is empty.

The first process that opens a file owns it. Others find it locked and only read.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from os import preadv, pwritev
from pathlib import Path
from zlib import crc32

from octavo.types import U8

MAGIC = b"OCTAVOKV"
FORMAT = 1
PAGE = 4096
TITLE = 1024  # bytes of a title at most
ENTRY = 64
_HEADER = struct.Struct("<8sIQQ32sH")
_ENTRY = struct.Struct("<32sQQI")
_CHECKSUM = struct.Struct("<I")
SCANNED = 1 << 14  # entries read at once


class NotASlab(Exception):
    """The file is not one of ours, is damaged, or belongs to something else. The message says which."""


@dataclass(frozen=True, slots=True)
class Header:
    """block_bytes: of a payload. fingerprint: 32 bytes; only equal ones may share payloads. title: for people."""

    block_bytes: int
    slots: int
    fingerprint: bytes
    title: str

    @property
    def stride(self) -> int:
        return _pages(self.block_bytes)

    @property
    def first_payload(self) -> int:
        return PAGE + _pages(self.slots * ENTRY)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.first_payload + self.slots * self.stride

    def encode(self) -> bytes:
        title = self.title.encode()[:TITLE]
        sizes = (FORMAT, self.block_bytes, self.slots)
        body = _HEADER.pack(MAGIC, *sizes, self.fingerprint, len(title)) + title
        return (body + _CHECKSUM.pack(crc32(body))).ljust(PAGE, b"\0")


@dataclass(frozen=True, slots=True)
class Entry:
    slot: int
    key: bytes
    generation: int  # the larger, the newer
    length: int
    checksum: int


def decode_header(data: bytes) -> Header:
    """Raises NotASlab."""
    if len(data) < PAGE or data[: len(MAGIC)] != MAGIC:
        raise NotASlab("it is not a KV cache")
    _, format, block_bytes, slots, fingerprint, length = _HEADER.unpack_from(data)
    if format != FORMAT:
        raise NotASlab(f"it has format {format}, and this version of Octavo reads format {FORMAT}")
    end = _HEADER.size + length
    if length > TITLE or _CHECKSUM.unpack_from(data, end)[0] != crc32(data[:end]) or not block_bytes:
        raise NotASlab("its header is damaged")
    return Header(block_bytes, slots, fingerprint, data[_HEADER.size : end].decode(errors="replace"))


def header_for(budget: int, block_bytes: int, fingerprint: bytes, title: str) -> Header:
    """The header of a file of at most `budget` bytes. It may have no slot."""
    slots = max(0, (budget - 2 * PAGE) // (_pages(block_bytes) + ENTRY))
    return Header(block_bytes, slots, fingerprint, title)


class Slab:
    """An open file. Its methods may be called by several threads, but a slot is written by one.

    Each may raise OSError, and `open_slab` NotASlab too.
    """

    def __init__(self, descriptor: int, header: Header, owned: bool):
        self.header = header
        self.owned = owned
        self._descriptor = descriptor

    def entries(self) -> list[Entry]:
        """The slots that were written, in the order of the file."""
        found: list[Entry] = []
        for first in range(0, self.header.slots, SCANNED):
            count = min(SCANNED, self.header.slots - first)
            data = os.pread(self._descriptor, count * ENTRY, PAGE + first * ENTRY)
            for at in range(len(data) // ENTRY):
                key, generation, length, checksum = _ENTRY.unpack_from(data, at * ENTRY)
                if generation and length <= self.header.block_bytes:
                    found.append(Entry(first + at, key, generation, length, checksum))
        return found

    def read(self, entry: Entry, into: U8) -> bool:
        """Reads a payload into [block bytes]. False if it is not what the entry says; `into` is then garbage."""
        if entry.length != into.nbytes or preadv(self._descriptor, [into.data], self._place(entry.slot)) != into.nbytes:
            return False
        return entry.checksum == _checksum(entry.key, entry.generation, into)

    def write(self, slot: int, key: bytes, generation: int, data: U8) -> Entry:
        entry = Entry(slot, key, generation, data.nbytes, _checksum(key, generation, data))
        self._write(data.data, self._place(slot))
        fields = _ENTRY.pack(key, generation, entry.length, entry.checksum)
        self._write(memoryview(fields), PAGE + slot * ENTRY)
        return entry

    def clear(self, slot: int) -> None:
        self._write(memoryview(bytes(ENTRY)), PAGE + slot * ENTRY)

    def _place(self, slot: int) -> int:
        return self.header.first_payload + slot * self.header.stride

    def _write(self, data: memoryview, at: int) -> None:
        if (written := pwritev(self._descriptor, [data], at)) != len(data):
            raise OSError(f"only {written} of {len(data)} bytes were written")

    def close(self) -> None:
        os.close(self._descriptor)


def open_slab(path: Path, wanted: Header) -> tuple[Slab, str]:
    """Opens or makes a file for these blocks. Returns it, and why what was in it is not used ("" if it is used).

    A file of ours that holds other blocks, or is damaged, starts anew. A file that is not ours is left alone.
    Raises NotASlab if the file cannot be used, OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        owned = _lock(descriptor)
        size = os.fstat(descriptor).st_size
        trouble = ""
        if size:
            try:
                header = _same_blocks(os.pread(descriptor, PAGE, 0), wanted)
            except NotASlab as reason:
                if not owned or os.pread(descriptor, len(MAGIC), 0) != MAGIC:
                    raise
                trouble = str(reason)
            else:
                if not owned or header.slots == wanted.slots:
                    return Slab(descriptor, header, owned), ""
                trouble = f"its size was {header.size / 2**30:.2f} GiB, and is now {wanted.size / 2**30:.2f}"
        elif not owned:
            raise NotASlab("another process is just making it")
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        _reserve(descriptor, wanted.size)
        os.pwrite(descriptor, wanted.encode(), 0)
        return Slab(descriptor, wanted, owned), trouble
    except BaseException:
        os.close(descriptor)
        raise


def read_slab(path: Path) -> Slab:
    """Opens a file to look at it, without its lock. Raises NotASlab, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return Slab(descriptor, decode_header(os.pread(descriptor, PAGE, 0)), False)
    except BaseException:
        os.close(descriptor)
        raise


def in_use(path: Path) -> bool:
    """Whether a process owns the file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _same_blocks(data: bytes, wanted: Header) -> Header:
    header = decode_header(data)
    if (header.fingerprint, header.block_bytes) != (wanted.fingerprint, wanted.block_bytes):
        raise NotASlab("it was made by another version of Octavo, or with other settings")
    return header


def _reserve(descriptor: int, size: int) -> None:
    """Takes the file's room on the disk now: a disk that is full is found at the start, not at some write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _checksum(key: bytes, generation: int, data: U8) -> int:
    return crc32(data.data, crc32(_ENTRY.pack(key, generation, data.nbytes, 0)))
