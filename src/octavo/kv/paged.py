"""The paged KV cache (vLLM, 2309.06180): a sequence takes blocks as it needs them and shares equal prefixes."""

from __future__ import annotations

import numpy as np

from octavo.config import CacheConfig
from octavo.kv import compaction
from octavo.kv.blocks import BlockPool
from octavo.kv.eviction import hidden_blocks, kept_tokens, most_blocks
from octavo.kv.no_store import NoStore
from octavo.kv.prefix import extend_chain, match, root_key
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Compaction, Sequence, SinkRecent, SnapKV

PUT_OFF = 8  # blocks of a sequence that may be without their names: hashing each by itself costs several times as much


class PagedCache(NoStore):
    """See `kv.manager.CacheManager`.

    A block gets its name, for others to find, once that matters: before anyone is admitted, and before its sequence
    lets go of it. `kv.offload` adds what is below the pool.
    """

    def __init__(self, cache: CacheConfig, max_sequences: int, max_blocks: int, prefix_caching: bool = True):
        self.block_size = cache.block_size
        self.evictions = cache.evictions
        self.prefix_caching = prefix_caching
        self.pool = BlockPool(cache.num_blocks)
        self.num_dropped = 0  # blocks that left a table because no later token sees them
        self.tables = BlockTables(max_sequences, max_blocks, cache.block_size)
        self.transfers = PendingTransfers()
        self._targets: dict[Sequence, list[int]] = {}  # blocks for what snapkv will keep of the prompt
        self._unnamed: dict[
            Sequence, tuple[int, int]
        ] = {}  # its full blocks without a name, counted with dropped ones: first, stop

    @property
    def capacity(self) -> int:
        return self.pool.num_blocks * self.block_size

    @property
    def usage(self) -> float:
        return self.pool.num_used / self.pool.num_blocks

    def admit(self, seq: Sequence, keep_free: int) -> bool:
        return self._place(seq, match(self.pool, self._prefix_keys(seq)), keep_free)

    def _place(self, seq: Sequence, found: list[int], keep_free: int) -> bool:
        """Gives the sequence these shared blocks, except those hidden already, and new ones for its other tokens."""
        pool = self.pool
        computed = len(found) * self.block_size
        hidden = hidden_blocks(seq.eviction, computed, self.block_size)
        hits = found[: hidden.start] + found[hidden.stop :] if seq.eviction else found
        targets = self._blocks_for_kept(seq)
        missing = self._blocks_to_start(seq, len(hidden)) - len(hits) + targets
        revived = sum(pool.refs[block] == 0 for block in hits)
        if missing + revived + keep_free > pool.num_available:
            return False
        table = pool.fork(hits)  # before allocating, which could evict them
        seq.num_computed_tokens = computed
        self.tables.add(seq, table + pool.allocate(missing - targets), len(hits) * self.block_size)
        if targets:
            self._targets[seq] = pool.allocate(targets)
        return True

    def _blocks_to_start(self, seq: Sequence, hidden: int) -> int:
        """Blocks for all known tokens; with eviction, for no more of them than will be held. hidden: those that are
        hidden already."""
        tokens = seq.num_prompt_tokens if isinstance(seq.eviction, SnapKV) else len(seq.token_ids)
        blocks = -(-tokens // self.block_size) - hidden
        if isinstance(seq.eviction, SinkRecent):
            return min(blocks, most_blocks(seq.eviction, self.block_size))
        return blocks

    def _blocks_for_kept(self, seq: Sequence) -> int:
        """Blocks for what snapkv keeps of the prompt; 0 if it keeps all."""
        if not isinstance(seq.eviction, SnapKV):
            return 0
        keep = kept_tokens(seq.eviction, seq.num_prompt_tokens)
        return -(-keep // self.block_size) if keep < seq.num_prompt_tokens else 0

    def room(self, seq: Sequence) -> int:
        pool, table = self.pool, seq.block_table
        slots = (len(table) + pool.num_available) * self.block_size
        return min(slots, self.tables.most_slots) - seq.kv_length

    def _prefix_keys(self, seq: Sequence) -> list[bytes]:
        """The keys of the blocks that the sequence may take over."""
        if not self.prefix_caching:
            return []
        for running in list(self._unnamed):
            self._name_blocks(running)
        usable = _reusable_tokens(seq)
        if isinstance(seq.eviction, SnapKV):  # what follows the prompt sees only what is kept of it
            usable = min(usable, seq.num_prompt_tokens - 1)
        usable //= self.block_size
        self._extend_chain(seq, usable)
        return seq.block_keys[:usable]

    def _extend_chain(self, seq: Sequence, count: int) -> None:
        policy = str(seq.eviction) if isinstance(seq.eviction, SinkRecent) else ""
        root = root_key(seq.request.cache_salt, eviction=policy)
        extend_chain(seq.block_keys, seq.token_ids, count, self.block_size, root)

    def _dropped(self, seq: Sequence) -> int:
        """Blocks that have left its table: what the entries after the sinks' blocks lie ahead of their index by."""
        if not isinstance(seq.eviction, SinkRecent):
            return 0
        return (seq.num_computed_tokens - seq.kv_length) // self.block_size

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
        if seq in self._targets and seq.num_computed_tokens >= seq.num_prompt_tokens:
            if self.prefix_caching and first < stop:
                self._unnamed[seq] = self._unnamed.get(seq, (first, stop))[0], stop
            self._compact(seq)
            return
        compacted = isinstance(seq.eviction, SnapKV) and seq.kv_length < seq.num_computed_tokens
        if first == stop or compacted:  # blocks with what is kept are nobody else's
            return
        if self.prefix_caching:
            dropped = self._dropped(seq)
            first, _ = self._unnamed.get(seq, (first + dropped, stop))
            self._unnamed[seq] = first, stop + dropped
            if stop + dropped - first >= PUT_OFF:
                self._name_blocks(seq)
        if isinstance(seq.eviction, SinkRecent):
            self._drop_hidden(seq)

    def _compact(self, seq: Sequence) -> None:
        """Exchanges the prompt's blocks, which others may find, for private ones with what snapkv keeps of it."""
        assert isinstance(seq.eviction, SnapKV) and seq.kv_length == seq.num_prompt_tokens
        self._name_blocks(seq)
        length, targets = seq.kv_length, self._targets.pop(seq)
        keep = kept_tokens(seq.eviction, length)
        window = min(seq.eviction.window, length)
        self.transfers.compactions.append(
            Compaction(
                token_ids=np.array(seq.token_ids[length - window : length], np.int32),
                block_table=np.array(seq.block_table, np.int32),
                length=length,
                targets=np.array(targets, np.int32),
                keep=keep,
                pool=seq.eviction.pool,
            )
        )
        blocks = self.tables.remove(seq)
        self.tables.add(seq, targets, keep)
        self.num_dropped += len(blocks) - len(targets)
        self.pool.release(blocks)

    def _drop_hidden(self, seq: Sequence) -> None:
        """Releases the blocks that no later token sees. The next token is known: only final tokens count."""
        hidden = hidden_blocks(seq.eviction, seq.num_computed_tokens, self.block_size)
        count = len(hidden) - self._dropped(seq)
        if count > 0:
            self._name_blocks(seq)
            self.num_dropped += count
            self.pool.release(self.tables.cut(seq, hidden.start, count))

    def _name_blocks(self, seq: Sequence) -> None:
        """Names what has been committed: while a step runs ahead, `kv_length` may be more (`scheduler.ahead`)."""
        if (span := self._unnamed.pop(seq, None)) is None:
            return
        first, stop = span
        dropped = self._dropped(seq)
        self._extend_chain(seq, stop)
        for index in range(first, stop):
            self.pool.register(seq.block_table[index - dropped], seq.block_keys[index])

    def free(self, seq: Sequence) -> None:
        if seq in self.tables:
            self._name_blocks(seq)
            self.pool.release(self.tables.remove(seq))
            self.pool.release(self._targets.pop(seq, []))

    def discard(self, seq: Sequence) -> None:
        self._unnamed.pop(seq, None)
        for block in seq.block_table:
            self.pool.forget(block)
        self.free(seq)

    def gather(self) -> bool:
        return compaction.gather(self.pool, self.tables, self.transfers) > 0

    def check_integrity(self) -> None:
        self.tables.check_integrity()
        assert self._unnamed.keys() <= self.tables.rows.keys(), "who holds no blocks has none to name"
        assert self._targets.keys() <= self.tables.rows.keys(), "blocks are held for a sequence that has none"
        self.pool.check_integrity([*(seq.block_table for seq in self.tables.rows), *self._targets.values()])


def _reusable_tokens(seq: Sequence) -> int:
    """How many tokens may come from the cache: all but the last, whose logits are needed.

    If the prompt's logits are requested too (`prompt_logprobs`, mean pooling), only tokens whose rows were returned
    before a preemption may."""
    if seq.index == 0 and seq.request.wants_prompt_rows and seq.num_scored_tokens < seq.num_prompt_tokens - 1:
        return seq.num_scored_tokens
    return len(seq.token_ids) - 1
