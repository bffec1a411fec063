"""A tier on the disk: the blocks outlive the process, and so does what the user waited for.

Whatever goes wrong is a miss, never a wrong block: see `kv.slab`. A disk that is full or fails turns the tier off, with
one warning.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from octavo.kv.prefix import is_private
from octavo.kv.slab import Entry, NotASlab, Slab, header_for, open_slab
from octavo.types import U8

log = logging.getLogger(__name__)


class DiskTier:
    """See `kv.store.Tier`. The least recently written or read blocks are overwritten.

    salted: also keep blocks of requests with a cache salt.
    """

    name = "disk"

    def __init__(self, path: Path, slab: Slab, salted: bool = False):
        self.path = path
        self.evictions = 0
        self._slab = slab
        self._salted = salted
        self._lock = Lock()
        self._on = True
        self._warned = False
        entries = sorted(slab.entries(), key=lambda entry: entry.generation)
        self._index: OrderedDict[bytes, Entry] = OrderedDict()
        for entry in entries:  # a key may be there twice: the newest counts
            self._index[entry.key] = entry
            self._index.move_to_end(entry.key)
        used = {entry.slot for entry in self._index.values()}
        self._free = [slot for slot in range(slab.header.slots - 1, -1, -1) if slot not in used]
        self._generation = entries[-1].generation if entries else 0

    def holds(self, key: bytes) -> bool:
        return self._on and key in self._index

    def takes(self, key: bytes) -> bool:
        return self._on and self._slab.owned and (self._salted or not is_private(key))

    def touch(self, key: bytes) -> None:
        with self._lock:
            if key in self._index:
                self._index.move_to_end(key)

    def read(self, key: bytes, into: U8) -> bool:
        self.touch(key)
        if not self._on or (entry := self._index.get(key)) is None:
            return False
        try:
            if self._slab.read(entry, into):
                return True
        except OSError as error:
            self._fail(error)
            return False
        if self._index.get(key) is entry and self._slab.owned:  # else it has been overwritten meanwhile
            self._warn("a block in %s is damaged: it is computed again", self.path)
            self.forget(key)
        return False

    def write(self, key: bytes, data: U8) -> list[tuple[bytes, U8]]:
        with self._lock:
            if key in self._index or not self.takes(key) or not self._slab.header.slots:
                return []
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._index.popitem(last=False)[1].slot
                self.evictions += 1
            self._generation += 1
            generation = self._generation
        try:
            entry = self._slab.write(slot, key, generation, data)
        except OSError as error:
            self._fail(error)
            return []
        with self._lock:
            self._index[key] = entry
        return []

    def forget(self, key: bytes) -> None:
        with self._lock:
            if (entry := self._index.pop(key, None)) is None or not self._slab.owned:
                return
        try:
            self._slab.clear(entry.slot)
        except OSError as error:
            self._fail(error)
        with self._lock:
            self._free.append(entry.slot)

    def content(self) -> list[tuple[bytes, U8]]:
        return []  # it stays where it is

    def close(self) -> None:
        self._on = False
        self._slab.close()

    def _fail(self, error: OSError) -> None:
        if self._on:
            self._on = False
            log.warning("the KV cache in %s is off: %s", self.path, error.strerror or error)

    def _warn(self, message: str, path: Path) -> None:
        if not self._warned:
            self._warned = True
            log.warning(message, path)


def open_tier(
    folder: Path, name: str, budget: int, block_bytes: int, fingerprint: bytes, title: str, salted: bool = False
) -> DiskTier | None:
    """The tier in `folder`, or None, with a warning, if there can be none.

    name: of the file. budget: bytes it may take. fingerprint: what the blocks depend on. title: what `octavo cache`
    calls it.
    """
    path = folder / name
    header = header_for(budget, block_bytes, fingerprint, title)
    if not header.slots:
        log.warning("there is no KV cache on disk: kv_disk_gb is too small for a block of %d bytes", block_bytes)
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        slab, trouble = open_slab(path, header)
        if trouble:
            log.warning("the KV cache in %s starts anew: %s", path, trouble)
        if not slab.owned:
            log.info("the KV cache in %s belongs to another process: it is only read", path)
        return DiskTier(path, slab, salted)
    except (NotASlab, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        log.warning("the KV cache in %s is not used: %s", path, reason)
        return None
