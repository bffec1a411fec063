"""The paged cache with a store below its pool.

A block that loses its place in the pool goes to the store. A sequence that is admitted looks in the pool first, then in
the store, and waits while its blocks are read; other sequences run meanwhile. This is also how a preempted sequence
comes back: only its last partial block is computed again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from octavo.config import CacheConfig
from octavo.kv.loads import Load
from octavo.kv.paged import PagedCache
from octavo.kv.prefix import match
from octavo.kv.store import Store
from octavo.kv.swap_costs import SwapCosts
from octavo.types import Sequence, SinkRecent


@dataclass(slots=True)
class Waiting:
    """A sequence's load, the number of its first block, and when it began."""

    load: Load
    first: int
    began: float


class OffloadedCache(PagedCache):
    """costs: set where blocks are loaded only if that is expected to pay. reload: whether preempted sequences may load.

    `use_store` comes before the first sequence.
    """

    store: Store
    costs: SwapCosts | None = None

    def __init__(self, cache: CacheConfig, max_sequences: int, max_blocks: int, reload: bool = True):
        super().__init__(cache, max_sequences, max_blocks)
        self._reload = reload
        self._waiting: dict[Sequence, Waiting] = {}
        self._draining: list[int] = []  # blocks that nobody holds, but to which a thread still writes
        self._hits: Counter[bytes] = Counter()  # how often others found these blocks in the pool

    def use_store(self, store: Store, costs: SwapCosts | None) -> None:
        self.store, self.costs = store, costs
        self.pool.on_evict = self._evicted

    def _evicted(self, key: bytes, block: int) -> None:
        del self._hits[key]
        self.store.keep(key, block)

    def admit(self, seq: Sequence, keep_free: int) -> bool:
        keys = self._prefix_keys(seq)
        hits = match(self.pool, keys)
        wanted = self._stored(seq, keys[len(hits) :])
        if wanted and wanted[0] in self.store.loads:
            return False  # another sequence is loading it: it will be in the pool soon
        if not self._place(seq, hits, keep_free):
            return False
        self.store.stats.external_queries += (len(keys) - len(hits)) * self.block_size
        if not seq.num_preemptions:
            self._count(keys[: len(hits)], hits)
        if wanted:
            first = len(hits)
            load = self.store.loads.start(wanted, seq.block_table[first : first + len(wanted)])
            self._waiting[seq] = Waiting(load, first, time.monotonic())
        return True

    def _stored(self, seq: Sequence, keys: list[bytes]) -> list[bytes]:
        """Those of the first keys that the store has, if loading them is wanted."""
        if isinstance(seq.eviction, SinkRecent) or (seq.num_preemptions and not self._reload):
            return []  # a table with dropped blocks has no place for all of them
        found = list(takewhile(self.store.holds, keys))
        return found if self.costs is None or not found or self.costs.choose_load(len(found)) else []

    def _count(self, keys: list[bytes], hits: list[int]) -> None:
        """A block that is found in the pool for a second time is worth storing before it has to go."""
        for key, block in zip(keys, hits, strict=True):
            self._hits[key] += 1
            if self._hits[key] == 2:
                self.store.keep(key, block)

    def is_loading(self, seq: Sequence) -> bool:
        return seq in self._waiting

    def poll(self) -> list[Sequence]:
        over = self.store.loads.poll()
        self._release_drained()
        arrived = [seq for seq, waiting in self._waiting.items() if waiting.load in over]
        for seq in arrived:
            self._take_over(seq, self._waiting.pop(seq))
        return arrived

    def _take_over(self, seq: Sequence, waiting: Waiting) -> None:
        """What has landed counts as computed. The rest is computed, as if nobody had looked for it."""
        load, stats, seconds = waiting.load, self.store.stats, time.monotonic() - waiting.began
        for index, key in enumerate(load.keys[: load.landed], waiting.first):
            self.pool.register(seq.block_table[index], key)
        tokens = load.landed * self.block_size
        seq.kv_length += tokens
        seq.num_computed_tokens += tokens
        stats.external_hits += tokens
        stats.tier_hits.update(load.tiers)
        stats.swap_bytes_in += load.landed * self.store.block_bytes
        stats.load_seconds += seconds
        stats.load_misses += load.missed
        if self.costs is not None and load.landed:
            self.costs.loaded(load.landed, seconds)

    def settle(self, seconds: float) -> bool:
        if seconds and self._draining:
            self.store.loads.wait(seconds)
        return self._release_drained()

    def _release_drained(self) -> bool:
        freed = self.store.loads.drained()
        self._draining = [block for block in self._draining if block not in freed]
        self.pool.release(freed)
        return bool(freed)

    def free(self, seq: Sequence) -> None:
        if (waiting := self._waiting.pop(seq, None)) is not None:
            busy = self.store.loads.cancel(waiting.load)
            self._draining += busy
            for block in busy:
                self.pool.share(block)  # until no thread writes to it
        super().free(seq)

    def discard(self, seq: Sequence) -> None:
        self.store.forget(seq.block_keys)
        super().discard(seq)

    def close(self, transfer: Callable[[], None]) -> None:
        for seq in list(self.tables.rows):
            self.free(seq)
        self.store.close(self.pool.named(), transfer)

    def check_integrity(self) -> None:
        self.tables.check_integrity()
        assert self._waiting.keys() <= self.tables.rows.keys(), "blocks are loaded for nobody"
        tables = [seq.block_table for seq in self.tables.rows]
        self.pool.check_integrity([*tables, *self._targets.values(), self._draining])
