"""The baseline KV cache: each sequence reserves contiguous room for the longest context. Nothing is shared."""

from __future__ import annotations

from octavo.config import CacheConfig
from octavo.errors import CapacityError
from octavo.kv.no_store import NoStore
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Sequence


class ContiguousCache(NoStore):
    """See `kv.manager.CacheManager`. The pool is split into regions of `max_blocks` blocks, one for each sequence."""

    def __init__(self, cache: CacheConfig, max_sequences: int, max_blocks: int):
        self.block_size = cache.block_size
        self.evictions = cache.evictions
        self.region_blocks = max_blocks
        self.num_regions = cache.num_blocks // max_blocks
        if self.num_regions == 0:
            raise CapacityError(
                f"kv_cache='contiguous' needs {max_blocks} blocks for one sequence of max_model_len, but the pool has "
                f"{cache.num_blocks}: lower max_model_len, or raise kv_cache_memory or num_kv_blocks"
            )
        self.tables = BlockTables(max_sequences, max_blocks, cache.block_size)
        self.transfers = PendingTransfers()
        self._free = list(range(self.num_regions - 1, -1, -1))

    @property
    def capacity(self) -> int:
        return self.region_blocks * self.block_size

    @property
    def usage(self) -> float:
        return 1 - len(self._free) / self.num_regions

    def admit(self, seq: Sequence, keep_free: int) -> bool:
        if not self._free:
            return False
        start = self._free.pop() * self.region_blocks
        self.tables.add(seq, list(range(start, start + self.region_blocks)))
        seq.num_computed_tokens = 0
        return True

    def room(self, seq: Sequence) -> int:
        return self.capacity - seq.kv_length

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        assert seq.kv_length + num_tokens <= self.capacity
        return True

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        return False

    def commit(self, seq: Sequence, start: int) -> None:
        pass

    def free(self, seq: Sequence) -> None:
        if seq in self.tables:
            self._free.append(self.tables.remove(seq)[0] // self.region_blocks)

    def discard(self, seq: Sequence) -> None:
        self.free(seq)

    def gather(self) -> bool:
        return False

    def check_integrity(self) -> None:
        self.tables.check_integrity()
        held = [seq.block_table[0] // self.region_blocks for seq in self.tables.rows]
        assert sorted(held + self._free) == list(range(self.num_regions)), "a region is lost or held twice"
