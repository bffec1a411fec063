"""The tiers below the KV pool, as one store of blocks by key: where evicted blocks go, and where they come back from.

           evicted, hit twice, at the end               written
    pool -------------------------------------> stage ---------> tiers, in order
         <-------------------------------------------------------
             loads (straight into a pool in main memory)

A block that comes back has the bytes of the block that left, or it is a miss. So preemption by swapping, a prompt after
a restart, and a prefix cache that is larger than the pool are the same thing: a key that is looked up behind the pool.

The control plane never waits for a tier: threads write and read. A block that leaves is copied to a row of the stage,
by the transfer that is made before its memory is used again. If no row is free, the block is dropped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from octavo.kv.loads import Loads
from octavo.kv.transfers import PendingTransfers
from octavo.types import U8

log = logging.getLogger(__name__)
STAGE = 64 << 20  # bytes of blocks that wait to be written, or to be copied to a device
MOST_ROWS = 4096
CLOSING = 3.0  # seconds that storing takes at the end, at most: a server's engine process must stop within 5


class Tier(Protocol):
    """Blocks by key. Several threads call it. No method raises: a tier that fails is one that misses."""

    name: str
    evictions: int  # blocks that made room for others

    def holds(self, key: bytes) -> bool: ...

    def takes(self, key: bytes) -> bool:
        """Whether `write` would keep this block."""

    def touch(self, key: bytes) -> None:
        """Counts as a use of the block, if it is here."""

    def read(self, key: bytes, into: U8) -> bool:
        """Fills `into` [bytes of a block]. False for a miss, with garbage in it."""

    def write(self, key: bytes, data: U8) -> list[tuple[bytes, U8]]:
        """Keeps a copy. Returns what had to make room, for the next tier."""

    def forget(self, key: bytes) -> None: ...

    def content(self) -> list[tuple[bytes, U8]]:
        """What ends with the process, the least recently used first."""

    def close(self) -> None: ...


@dataclass(slots=True)
class StoreStats:
    """Totals since the start."""

    external_queries: int = 0  # tokens that were not in the pool, and were looked up here
    external_hits: int = 0  # tokens that came back
    tier_hits: Counter[str] = field(default_factory=Counter)  # blocks that came back, by tier
    swap_bytes_in: int = 0
    swap_bytes_out: int = 0
    load_seconds: float = 0.0  # that sequences waited for blocks
    load_misses: int = 0  # loads that ended before their last block
    store_drops: int = 0  # blocks that found the stage full


def stage_rows(block_bytes: int) -> int:
    return min(max(8, STAGE // block_bytes), MOST_ROWS)


class Store:
    """stage [rows, bytes of a block]: the backend's. pool: its `host_pool`. transfers: those of the cache."""

    def __init__(self, tiers: list[Tier], stage: U8, pool: U8 | None, transfers: PendingTransfers):
        self.tiers = tiers
        self.block_bytes: int = stage.shape[1]
        self.stats = StoreStats()
        self._stage, self._transfers = stage, transfers
        reading = 0 if pool is not None else len(stage) // 2
        self.loads = Loads(self._fetch, pool, stage, list(range(reading)), transfers)
        self._rows = list(range(reading, len(stage)))  # that are free to be written to
        self._fresh: list[tuple[bytes, int]] = []  # (key, row) that the next transfer fills
        self._staged: dict[bytes, int] = {}  # rows of blocks that are not in a tier yet
        self._lock = Lock()  # of the rows and of `_staged`
        self._writer = ThreadPoolExecutor(1, "kv-write")

    def holds(self, key: bytes) -> bool:
        return key in self._staged or any([tier.holds(key) for tier in self.tiers])

    def keep(self, key: bytes, block: int) -> None:
        """Stores a block's content, unless it is here already. The block may be reused at once.

        Its content must be there when the next transfers are made."""
        if self.holds(key):
            for tier in self.tiers:
                tier.touch(key)
        elif any([tier.takes(key) for tier in self.tiers]):
            if (row := self._claim(key)) is None:
                self.stats.store_drops += 1
            else:
                self._transfers.stores.append((block, row))

    def _claim(self, key: bytes) -> int | None:
        with self._lock:
            if not self._rows:
                return None
            self._staged[key] = row = self._rows.pop()
        self._fresh.append((key, row))
        return row

    def forget(self, keys: Iterable[bytes]) -> None:
        """Drops blocks whose content is not to be trusted."""
        keys = set(keys)
        dropped = [(key, row) for key, row in self._fresh if key in keys]
        self._fresh = [pair for pair in self._fresh if pair not in dropped]
        with self._lock:
            for key in keys:
                self._staged.pop(key, None)
            self._rows += [row for _, row in dropped]
        for key in keys:
            self._writer.submit(self._forget, key)  # after the writes that are under way

    def transferred(self) -> None:
        """The pending transfers have been made: what they filled is written, and reads may start."""
        for key, row in self._fresh:
            self._writer.submit(self._write, key, row)
        self._fresh = []
        self.loads.transferred()

    def _write(self, key: bytes, row: int) -> None:
        try:
            self._put(key, self._stage[row], self.tiers)
            self.stats.swap_bytes_out += self.block_bytes
        except Exception:
            log.exception("a KV block could not be stored")
        with self._lock:
            if self._staged.get(key) == row:
                del self._staged[key]
            self._rows.append(row)

    def _put(self, key: bytes, data: U8, tiers: list[Tier]) -> None:
        """Gives a block to the first tier that takes it, and what it pushes out to those below."""
        for depth, tier in enumerate(tiers):
            if tier.takes(key):
                for pushed, content in tier.write(key, data):
                    self._put(pushed, content, tiers[depth + 1 :])
                return

    def _forget(self, key: bytes) -> None:
        for tier in self.tiers:
            tier.forget(key)

    def _fetch(self, key: bytes, into: U8) -> str | None:
        """Reads a block, on a thread of `loads`. Returns the name of the tier that had it, or None."""
        with self._lock:
            if (row := self._staged.get(key)) is not None:
                into[:] = self._stage[row]
                return "stage"
        try:
            return next((tier.name for tier in self.tiers if tier.read(key, into)), None)
        except Exception:
            log.exception("a KV block could not be read")
            return None

    def close(self, blocks: Iterable[tuple[bytes, int]], transfer: Callable[[], None]) -> None:
        """Stores these blocks, and what tiers hold that end with the process, as far as CLOSING allows.

        transfer: makes the pending transfers, and then calls `transferred`."""
        end = time.monotonic() + CLOSING
        for key, block in blocks:
            if not self._rows:
                transfer()
                self._settle()
                if time.monotonic() > end:
                    break
            self.keep(key, block)
        transfer()
        self._settle()
        for depth, tier in enumerate(self.tiers):
            for key, data in tier.content():
                if time.monotonic() < end:
                    self._writer.submit(self._put, key, data, self.tiers[depth + 1 :])
        self._writer.shutdown(wait=True)
        self.loads.close()
        for tier in self.tiers:
            tier.close()
        del self._stage

    def _settle(self) -> None:
        """Waits until all that was given to the writer is written."""
        self._writer.submit(lambda: None).result()
