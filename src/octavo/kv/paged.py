"""The paged KV cache (vLLM, 2309.06180): a sequence takes blocks as it needs them and shares equal prefixes."""

from __future__ import annotations

from collections.abc import Callable

from octavo.config import CacheConfig
from octavo.kv.blocks import BlockPool
from octavo.kv.prefix import extend_chain, match, root_key
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Sequence

PUT_OFF = 8  # blocks of a sequence that may be without their names: hashing each by itself costs several times as much


class PagedCache:
    """See `kv.manager.CacheManager`.

    A block gets its name, for others to find, once that matters: before anyone is admitted, and before its sequence
    lets go of it. `kv.offload` adds what is below the pool.
    """

    def __init__(self, cache: CacheConfig, max_sequences: int, max_blocks: int, prefix_caching: bool = True):
        self.block_size = cache.block_size
        self.prefix_caching = prefix_caching
        self.pool = BlockPool(cache.num_blocks)
        self.tables = BlockTables(max_sequences, max_blocks, cache.block_size)
        self.transfers = PendingTransfers()
        self._unnamed: dict[Sequence, tuple[int, int]] = {}  # its full blocks without a name: first, stop

    @property
    def capacity(self) -> int:
        return self.pool.num_blocks * self.block_size

    @property
    def usage(self) -> float:
        return self.pool.num_used / self.pool.num_blocks

    def admit(self, seq: Sequence, keep_free: int) -> bool:
        return self._place(seq, match(self.pool, self._prefix_keys(seq)), keep_free)

    def _place(self, seq: Sequence, hits: list[int], keep_free: int) -> bool:
        """Gives the sequence these shared blocks, and new ones for its other tokens."""
        pool = self.pool
        missing = -(-len(seq.token_ids) // self.block_size) - len(hits)
        revived = sum(pool.refs[block] == 0 for block in hits)
        if missing + revived + keep_free > pool.num_available:
            return False
        table = pool.fork(hits)  # before allocating, which could evict them
        seq.num_computed_tokens = len(hits) * self.block_size
        self.tables.add(seq, table + pool.allocate(missing), seq.num_computed_tokens)
        return True

    def _prefix_keys(self, seq: Sequence) -> list[bytes]:
        """The keys of the blocks that the sequence may take over."""
        if not self.prefix_caching:
            return []
        for running in list(self._unnamed):
            self._name_blocks(running)
        usable = _reusable_tokens(seq) // self.block_size
        self._extend_chain(seq, usable)
        return seq.block_keys[:usable]

    def _extend_chain(self, seq: Sequence, count: int) -> None:
        extend_chain(seq.block_keys, seq.token_ids, count, self.block_size, root_key(seq.request.cache_salt))

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        pool, table, start = self.pool, seq.block_table, seq.kv_length
        first = start // self.block_size
        if start + num_tokens <= len(table) * self.block_size and pool.refs[table[first]] == 1:
            return True
        missing = max(0, -(-(start + num_tokens) // self.block_size) - len(table))
        shared = first < len(table) and pool.refs[table[first]] > 1
        if missing + shared > pool.num_available:
            return False
        if shared:  # at most the block at `first`: a fork's table ends with it
            source = table[first]
            self.tables.replace(seq, first, pool.copy_on_write(source))
            self.transfers.copies.append((source, table[first]))
        if missing:
            for block in pool.allocate(missing):
                self.tables.append(seq, block)
        return True

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        self._name_blocks(parent)
        self.tables.add(child, self.pool.fork(parent.block_table), parent.kv_length)
        child.num_computed_tokens = parent.num_computed_tokens
        child.block_keys = list(parent.block_keys)
        return True

    def commit(self, seq: Sequence, start: int) -> None:
        first, stop = start // self.block_size, seq.kv_length // self.block_size
        if first == stop or not self.prefix_caching:
            return
        first, _ = self._unnamed.get(seq, (first, stop))
        self._unnamed[seq] = first, stop
        if stop - first >= PUT_OFF:
            self._name_blocks(seq)

    def _name_blocks(self, seq: Sequence) -> None:
        """Names what has been committed: while a step runs ahead, `kv_length` may be more (`scheduler.ahead`)."""
        if (span := self._unnamed.pop(seq, None)) is None:
            return
        first, stop = span
        self._extend_chain(seq, stop)
        for index in range(first, stop):
            self.pool.register(seq.block_table[index], seq.block_keys[index])

    def free(self, seq: Sequence) -> None:
        if seq in self.tables:
            self._name_blocks(seq)
            self.pool.release(self.tables.remove(seq))

    def discard(self, seq: Sequence) -> None:
        self._unnamed.pop(seq, None)
        for block in seq.block_table:
            self.pool.forget(block)
        self.free(seq)

    def is_loading(self, seq: Sequence) -> bool:
        return False

    def poll(self) -> list[Sequence]:
        return []

    def settle(self, seconds: float) -> bool:
        return False

    def close(self, transfer: Callable[[], None]) -> None:
        pass

    def check_integrity(self) -> None:
        self.tables.check_integrity()
        assert self._unnamed.keys() <= self.tables.rows.keys(), "who holds no blocks has none to name"
        self.pool.check_integrity(seq.block_table for seq in self.tables.rows)


def _reusable_tokens(seq: Sequence) -> int:
    """How many tokens may come from the cache: all but the last, whose logits are needed.

    If the prompt's logits are requested too (`prompt_logprobs`, mean pooling), only tokens whose rows were returned
    before a preemption may."""
    if seq.index == 0 and seq.request.wants_prompt_rows and seq.num_scored_tokens < seq.num_prompt_tokens - 1:
        return seq.num_scored_tokens
    return len(seq.token_ids) - 1
