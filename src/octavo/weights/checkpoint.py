"""An open model file or folder: metadata and memory-mapped tensors, independent of the container."""

from __future__ import annotations

import mmap
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelFileError
from octavo.ir import Weight

Bytes = NDArray[np.uint8]
Self = TypeVar("Self", bound="Checkpoint")


@dataclass(eq=False)
class Checkpoint:
    """The content of a model file. Tensors are read-only views of the map: pages are read when touched.

    path: the file (its first part when split), or the folder. size: bytes on disk, all parts.
    metadata: GGUF's key-value pairs, or config.json.
    """

    path: Path
    size: int
    metadata: Mapping[str, Any]
    tensors: dict[str, Weight]

    def close(self) -> None:
        """Drops tensors and metadata. The file is unmapped when its last view is gone."""
        self.tensors = {}
        self.metadata = {}

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def map_file(path: Path) -> Bytes:
    """Maps a whole regular file read-only: [size] bytes. Raises ModelFileError."""
    try:
        # A FIFO or a device would block or never end: look before opening.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path}: not a regular file")
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # mmap refuses an empty file
        raise ModelFileError(f"{path}: the file is empty") from error


def prefetch(data: Bytes) -> None:
    """Asks the kernel to read a whole mapped file ahead, in the background."""
    mapping = _mapping(data)
    if mapping is not None:
        mapping.madvise(mmap.MADV_WILLNEED)


def release(data: Bytes) -> None:
    """Lets the kernel drop a mapped tensor's pages; they are read again if touched.

    Packing calls it after each tensor, so peak memory is the packed copy instead of file and copy together.
    """
    mapping = _mapping(data)
    if mapping is None:
        return
    start = data.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the edges hold neighbours' values
    last = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _mapping(data: Bytes) -> mmap.mmap | None:
    """The map that an array is a view of. None if it is not mapped, or if the system has no madvise."""
    owner: Any = data
    while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
        owner = owner.base
    mapping = getattr(owner.base, "obj", owner.base)
    return mapping if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise") else None
