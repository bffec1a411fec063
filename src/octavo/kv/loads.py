"""Blocks on their way from the tiers into the pool.

Threads read straight into a pool in main memory. For a device with separate memory they read into rows of the stage,
and the next transfer copies these. Either way a block has landed only when its content is in the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

from octavo.kv.transfers import PendingTransfers
from octavo.types import U8

IN_FLIGHT = 64 << 20  # bytes that are being read at a time
READERS = 2  # threads: one reads while the other checks what it has read

Fetch = Callable[[bytes, U8], str | None]  # fills an array with a block; the name of the tier that had it, or None


@dataclass(slots=True, eq=False)
class Load:
    """The first `landed` blocks are in the pool. Once it is over, no thread writes to any of them."""

    keys: list[bytes]
    blocks: list[int]
    reads: list[Future[str | None]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of the stage, one a read; empty if the pool is main memory
    tiers: list[str] = field(default_factory=list)  # which had the blocks read so far
    landed: int = 0
    missed: bool = False  # the block after those is in no tier

    @property
    def is_over(self) -> bool:
        if self.landed < len(self.tiers):
            return False
        return self.landed == len(self.keys) or (self.missed and all(read.done() for read in self.reads))


class Loads:
    """One thread, the control plane's, calls all methods. They never wait for a read, except `wait`.

    fetch: called by threads. rows: of the stage, for reads; empty if there is a pool in main memory.
    """

    def __init__(self, fetch: Fetch, pool: U8 | None, stage: U8, rows: list[int], transfers: PendingTransfers):
        self._fetch, self._pool, self._stage, self._rows, self._transfers = fetch, pool, stage, rows, transfers
        self._most = len(rows) or max(READERS, IN_FLIGHT // stage.shape[1])
        self._loads: list[Load] = []
        self._keys: set[bytes] = set()
        self._landing: list[tuple[Load, int]] = []  # rows that the next transfer copies
        self._draining: list[tuple[Future[str | None], int, int | None]] = []  # given up: read, block, row
        self._news = Event()
        self._threads = ThreadPoolExecutor(READERS, "kv-read")

    def __contains__(self, key: bytes) -> bool:
        """Whether the block is on its way, so that it will be in the pool soon."""
        return key in self._keys

    def start(self, keys: list[bytes], blocks: list[int]) -> Load:
        """Reads begin with the next `transferred`. Until the load is over the blocks must belong to nobody else."""
        load = Load(keys, blocks)
        self._loads.append(load)
        self._keys.update(keys)
        return load

    def transferred(self) -> None:
        """The pending transfers have been made. Reads may start: before, a transfer could use their blocks."""
        for load, row in self._landing:
            load.landed += 1
            self._rows.append(row)
            self._news.set()
        self._landing = []
        self._submit()

    def poll(self) -> list[Load]:
        """Moves all loads on. Returns those that are over."""
        for load in self._loads:
            self._advance(load)
        over = [load for load in self._loads if load.is_over]
        for load in over:
            self._remove(load)
            self._rows += load.rows[load.landed :]
        if over:
            self._submit()
        return over

    def cancel(self, load: Load) -> set[int]:
        """Gives up a load. Returns its blocks that threads still write to: `drained` returns them later."""
        if load not in self._loads:
            return set()
        self._remove(load)
        self._landing = [pair for pair in self._landing if pair[0] is not load]
        copied = set(load.rows[load.landed : len(load.tiers)])
        self._transfers.loads[:] = [pair for pair in self._transfers.loads if pair[0] not in copied]
        self._rows += copied
        busy = set()
        for index in range(len(load.tiers), len(load.reads)):
            row = load.rows[index] if load.rows else None
            if not load.reads[index].cancel():
                self._draining.append((load.reads[index], load.blocks[index], row))
                if row is None:
                    busy.add(load.blocks[index])
            elif row is not None:
                self._rows.append(row)
        return busy

    @property
    def has_drains(self) -> bool:
        return bool(self._draining)

    def drained(self) -> list[int]:
        """Blocks of cancelled loads that no thread writes to any more, each once."""
        over = [entry for entry in self._draining if entry[0].done()]
        self._draining = [entry for entry in self._draining if not entry[0].done()]
        self._rows += [row for _, _, row in over if row is not None]
        return [block for _, block, row in over if row is None]

    def wait(self, seconds: float) -> None:
        """Returns when a read is over, at the latest after that time."""
        if self._loads or self._draining:
            self._news.wait(seconds)
            self._news.clear()

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        del self._pool, self._stage  # the pool's memory may be freed now

    def _submit(self) -> None:
        """Starts reads, load after load, up to the most at a time."""
        room = self._most - len(self._draining)
        room -= sum(not read.done() for load in self._loads for read in load.reads[len(load.tiers) :])
        for load in self._loads:
            while room > 0 and not load.missed and len(load.reads) < len(load.keys):
                index = len(load.reads)
                if self._pool is not None:
                    target = self._pool[load.blocks[index]]
                elif self._rows:
                    load.rows.append(self._rows.pop())
                    target = self._stage[load.rows[-1]]
                else:
                    return
                read = self._threads.submit(self._fetch, load.keys[index], target)
                read.add_done_callback(lambda _: self._news.set())
                load.reads.append(read)
                room -= 1

    def _advance(self, load: Load) -> None:
        """Takes note of the reads that are done, in order. After a miss the others are useless."""
        while not load.missed and len(load.tiers) < len(load.reads) and load.reads[len(load.tiers)].done():
            tier = load.reads[len(load.tiers)].result()
            if tier is None:
                load.missed = True
                for read in load.reads[len(load.tiers) :]:
                    read.cancel()
                return
            if self._pool is None:
                row = load.rows[len(load.tiers)]
                self._transfers.loads.append((row, load.blocks[len(load.tiers)]))
                self._landing.append((load, row))
            else:
                load.landed += 1
            load.tiers.append(tier)

    def _remove(self, load: Load) -> None:
        self._loads.remove(load)
        self._keys.difference_update(load.keys)
