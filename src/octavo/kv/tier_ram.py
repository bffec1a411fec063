"""A tier in main memory, for devices with memory of their own. On a CPU the pool is main memory already."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np

from octavo.types import U8


class RamTier:
    """See `kv.store.Tier`. blocks: how many it holds. The least recently used ones make room."""

    name = "ram"

    def __init__(self, blocks: int):
        self.evictions = 0
        self._most = blocks
        self._kept: OrderedDict[bytes, U8] = OrderedDict()
        self._lock = Lock()

    def holds(self, key: bytes) -> bool:
        return key in self._kept

    def takes(self, key: bytes) -> bool:
        return self._most > 0

    def touch(self, key: bytes) -> None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)

    def read(self, key: bytes, into: U8) -> bool:
        self.touch(key)
        if (data := self._kept.get(key)) is None:
            return False
        into[:] = data
        return True

    def write(self, key: bytes, data: U8) -> list[tuple[bytes, U8]]:
        with self._lock:
            self._kept[key] = np.array(data)
            pushed = [self._kept.popitem(last=False) for _ in range(len(self._kept) - self._most)]
        self.evictions += len(pushed)
        return pushed

    def forget(self, key: bytes) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def content(self) -> list[tuple[bytes, U8]]:
        """Everything, the least recently used first."""
        with self._lock:
            return list(self._kept.items())

    def close(self) -> None:
        self._kept.clear()
