"""A backend without arithmetic: drives the control plane in tests and measures its cost.

Its "KV cache" keeps each token's id and position in the token's slot. The next token is a hash of the context as read
back through the block table. So any bookkeeping error (a wrong slot, a missing copy, a stale shared block, a rejected
draft left behind) changes the output. Sampling parameters are ignored, except that temperature > 0 mixes in the row's
seed and position.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from octavo.backends import host
from octavo.backends.base import Backend, Device, Progress, branch
from octavo.config import CacheConfig, EngineConfig
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.kv import eviction
from octavo.kv.snapkv import choose
from octavo.types import F32, I32, I64, U8, U64, Batch, Compaction, StepResult, Transfers

Bools = NDArray[np.bool_]
DECAY = 0.5  # the token `d` places (mod V) after the most likely has the logit -DECAY * d
SLOT_BYTES = 16  # two int64
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class NullBackend:
    """It plays a device with memory of its own, so a tier in main memory can be below its pool.

    nan_tokens: a context with one of them gives non-finite logits. crash_tokens: a batch with one of them raises."""

    def __init__(
        self, cache: CacheConfig, vocab_size: int, nan_tokens: Iterable[int] = (), crash_tokens: Iterable[int] = ()
    ):
        self._vocab = vocab_size
        self._block_size = cache.block_size
        self._normaliser = np.log(np.exp(-DECAY * np.arange(vocab_size)).sum())
        self._slots = np.full((cache.num_blocks, cache.block_size, 2), -1, np.int64)  # token id, position
        self._pool: U8 = self._slots.reshape(cache.num_blocks, -1).view(np.uint8)
        self._stage: U8 = self._pool[:0]
        self._nan_tokens = np.array(list(nan_tokens), np.int64)
        self._crash_tokens = np.array(list(crash_tokens), np.int32)

    def transfer(self, transfers: Transfers) -> None:
        flat = self._slots.reshape(-1, 2)
        for source, target in transfers.moves:
            flat[target] = flat[source]
        host.store(transfers, self._pool, self._stage)
        for source, target in transfers.copies:
            self._slots[target] = self._slots[source]
        host.load(transfers, self._pool, self._stage)

    @property
    def block_bytes(self) -> int:
        return int(self._pool.shape[1])

    def stage(self, rows: int) -> U8:
        self._stage = np.empty((rows, self._pool.shape[1]), np.uint8)
        return self._stage

    def host_pool(self) -> U8 | None:
        return None

    def compact(self, compaction: Compaction) -> None:
        """Keeps what a hash of token and position chooses."""
        window, keep = len(compaction.token_ids), compaction.keep
        entries = self._slots[compaction.block_table].reshape(-1, 2)[: compaction.length]
        mass = _scramble(entries[:, 0].astype(np.uint64) * GOLDEN + entries[:, 1].astype(np.uint64)).astype(np.float32)
        target = self._slots[compaction.targets].reshape(-1, 2)
        target[:keep] = entries[choose(mass, window, keep, compaction.pool)]
        self._slots[compaction.targets] = target.reshape(-1, self._block_size, 2)

    def run(self, batch: Batch) -> StepResult:
        if np.isin(batch.token_ids, self._crash_tokens).any():
            raise RuntimeError("injected failure")
        flat = self._slots.reshape(-1, 2)
        flat[batch.slot_mapping, 0] = batch.token_ids
        flat[batch.slot_mapping, 1] = batch.positions
        best, finite = self._likeliest(batch)
        chosen = np.where(batch.targets < 0, self._sample(batch, best), batch.targets).astype(np.int32)
        return self._result(batch, best, chosen, finite)

    def _likeliest(self, batch: Batch) -> tuple[I32, Bools]:
        """The greedy token of each logit row, and whether its context is free of nan_tokens."""
        best = np.empty(len(batch.logit_rows), np.int32)
        finite = np.ones(len(batch.logit_rows), np.bool_)
        owners = np.searchsorted(batch.query_starts, batch.logit_rows, side="right") - 1
        for row, (token_row, owner) in enumerate(zip(batch.logit_rows, owners, strict=True)):
            nodes = branch(batch, int(token_row))
            last = int(token_row if batch.parents is None or not nodes else batch.parents[nodes[0]])  # ordinary row
            end = int(batch.context_lens[owner] - batch.query_starts[owner + 1]) + last + 1
            blocks = batch.block_tables[owner, : -(-end // self._block_size)]
            context = self._slots[blocks].reshape(-1, 2)[:end]
            context = self._visible(batch, context, int(owner), int(batch.positions[token_row]))
            if nodes:
                context = np.concatenate([context, self._slots.reshape(-1, 2)[batch.slot_mapping[nodes]]])
            best[row] = _mix(context.astype(np.uint64)) % np.uint64(self._vocab)
            finite[row] = not np.isin(context[:, 0], self._nan_tokens).any()
        return best, finite

    def _visible(self, batch: Batch, context: I64, owner: int, position: int) -> I64:
        """The entries of context [n, 2] that a token at this position sees."""
        if batch.sinks is None or batch.windows is None or not batch.sinks[owner]:
            return context
        visible: Bools = eviction.seen(position, context[:, 1], int(batch.sinks[owner]), int(batch.windows[owner]))
        return context[visible]

    def _sample(self, batch: Batch, best: I32) -> I32:
        sampling = batch.sampling
        if sampling.plain_greedy:
            return best
        noise = _scramble(sampling.seeds + GOLDEN * sampling.positions.astype(np.uint64))
        noisy = (best.astype(np.uint64) + noise % np.uint64(self._vocab)) % np.uint64(self._vocab)
        return np.where(sampling.temperature > 0, noisy, best).astype(np.int32)

    def _result(self, batch: Batch, best: I32, chosen: I32, finite: Bools) -> StepResult:
        result = StepResult(chosen, finite)
        places = np.arange(self._vocab)
        if batch.num_logprobs >= 0:
            tops = places[: batch.num_logprobs]
            distance = (chosen - best) % self._vocab
            result.logprobs = self._logprob(distance)
            result.ranks = (distance + 1).astype(np.int32)
            result.top_ids = ((best[:, None] + tops) % self._vocab).astype(np.int32)
            result.top_logprobs = np.tile(self._logprob(tops), (len(best), 1))
        if batch.want_logits:
            result.logits = (-DECAY * ((places - best[:, None]) % self._vocab)).astype(np.float32)
        if batch.want_hidden:
            seen = (batch.token_ids[batch.logit_rows], batch.positions[batch.logit_rows], best)
            result.hidden = np.stack(seen, axis=1).astype(np.float32)
        return result

    def _logprob(self, distance: I64) -> F32:
        values: F32 = (-DECAY * distance - self._normaliser).astype(np.float32)
        return values

    def memory(self) -> dict[str, int]:
        return {"weights": 0, "kv": self._slots.nbytes, "scratch": 0}

    def share(self, model: Model) -> NullBackend:
        raise ConfigError("the null backend has no layers to skip: choose another speculative method")

    def close(self) -> None:
        pass


def _scramble(x: U64) -> U64:
    """splitmix64's finaliser: every bit of the input reaches every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(context: U64) -> np.uint64:
    """A hash of (token, stored position, place) for each entry of context [n, 2]. Sums, so it wraps silently."""
    places = np.arange(1, len(context) + 1, dtype=np.uint64)
    entries = _scramble(context[:, 0] * GOLDEN + context[:, 1] + (places << np.uint64(32)))
    return np.uint64(_scramble(entries.sum(keepdims=True))[0])


def footprint(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    return {"weights": 0, "kv": cache.num_blocks * cache.block_size * SLOT_BYTES, "scratch": 0}


def make(
    model: Model, config: EngineConfig, cache: CacheConfig, progress: Progress | None, beside: Backend | None
) -> Backend:
    return NullBackend(cache, model.vocab_size)


DEVICE = Device(
    make=make,
    footprint=footprint,
    available_memory=lambda options: host.available_memory(),
    auto_pool=host.auto_pool,
    facts=host.facts,
    kv_dtypes=("bf16", "f32", "int8", "k8v4"),
    trees=True,
    offload="ram",
    kv_version="null-1",
    evictions=("sink_recent", "snapkv"),
)
