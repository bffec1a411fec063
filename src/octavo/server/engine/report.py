"""What an engine process reports about itself: counters, and the use of the KV blocks."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import Any

from octavo.assembly.engine import Assembly
from octavo.backends.registry import device
from octavo.engine import Engine
from octavo.kv.offload import OffloadedCache
from octavo.kv.paged import PagedCache
from octavo.kv.store import StoreStats
from octavo.scheduler.stats import Stats
from octavo.server.engine.protocol import Ready

FREE, CACHED = -1, -2  # owners of blocks that no sequence holds; other owners are indices into `sequences`
COUNTERS = [*(field.name for field in dataclasses.fields(Stats)), "control_seconds"]
NO_STORE = StoreStats()
STORE_COUNTERS = [field.name for field in dataclasses.fields(StoreStats)]


def ready(parts: Assembly) -> Ready:
    config, cache = parts.config, parts.cache_config
    assert config.max_model_len is not None
    sizes = (parts.model.vocab_size, config.max_model_len, config.max_num_seqs, cache.num_blocks, cache.block_size)
    capacity = parts.engine.cache.capacity
    embeddings = (parts.model.hidden_size, parts.pooling)
    facts = device(config.backend).facts()
    settings = dataclasses.asdict(config)
    return Ready(*sizes, capacity, *embeddings, parts.backend.memory(), facts.name, facts.memory, settings)


def stats(engine: Engine) -> dict[str, Any]:
    """The fields of `scheduler.stats.Stats` with current gauges, `evicted_tokens` of the prefix cache, `dropped_tokens`
    of sequences, and what `kv.store.StoreStats` counts (zeros without tiers below the pool)."""
    values: dict[str, Any] = {name: getattr(engine.stats, name) for name in COUNTERS}
    if not engine.has_work:  # the gauges were set at the start of the last step, which had work
        values |= {"running": 0, "waiting": 0, "kv_usage": engine.cache.usage, "step_tokens": 0}
    if isinstance(engine.cache, PagedCache):
        values["evicted_tokens"] = engine.cache.pool.num_evictions * engine.cache.block_size
        values["dropped_tokens"] = engine.cache.num_dropped * engine.cache.block_size
    store = engine.cache.store if isinstance(engine.cache, OffloadedCache) else None
    counts = NO_STORE if store is None else store.stats
    values |= {name: getattr(counts, name) for name in STORE_COUNTERS}
    values["store_evictions"] = 0 if store is None else sum(tier.evictions for tier in store.tiers)
    return values


def snapshot(engine: Engine) -> dict[str, Any]:
    """The engine's state for the live page.

    sequences: the sequences that hold blocks, each as [request id, index, tokens, computed tokens, prompt tokens,
    cached tokens].
    blocks: the pool in order, run-length encoded as [owner, tables, length]. owner: index in `sequences` of the first
    sequence that holds the block, or FREE, or CACHED. tables: number of sequences that hold it; 2 or more: shared.
    """
    sequences = list(engine.cache.tables.rows)
    facts = [
        [
            seq.request.request_id,
            seq.index,
            len(seq.token_ids),
            seq.num_computed_tokens,
            seq.num_prompt_tokens,
            seq.num_cached_tokens,
        ]
        for seq in sequences
    ]
    return {"sequences": facts, "blocks": _block_runs(engine), "stats": stats(engine), "fragmentation": waste(engine)}


def _block_runs(engine: Engine) -> list[list[int]]:
    cache = engine.cache
    if not isinstance(cache, PagedCache):
        return []
    owners = [FREE] * cache.pool.num_blocks
    for block in cache.pool._cached:  # the pool's public interface gives only the number of cached blocks
        owners[block] = CACHED
    for index, seq in reversed(list(enumerate(cache.tables.rows))):
        for block in seq.block_table:
            owners[block] = index
    return [[*key, len(list(run))] for key, run in groupby(zip(owners, cache.pool.refs, strict=True))]


def waste(engine: Engine) -> float:
    """Share of the slots in held blocks that hold no token. A shared block counts once for each sequence."""
    sequences = list(engine.cache.tables.rows)
    slots = sum(len(seq.block_table) for seq in sequences) * engine.cache.block_size
    used = sum(seq.kv_length for seq in sequences)
    return 1 - used / slots if slots else 0.0
