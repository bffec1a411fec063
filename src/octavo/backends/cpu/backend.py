"""The CPU backend: packs a model's weights, traces its forward pass once, and runs each batch as one native call."""

from __future__ import annotations

import copy
import logging

import numpy as np

from octavo import _native
from octavo.backends import host
from octavo.backends.base import Progress
from octavo.backends.cpu.lower import KV_DTYPES, QUANTISED, cache_layers, fused, lower, offsets
from octavo.backends.cpu.packing import PackedMatrices, check_panels, matrices
from octavo.backends.plan.nodes import Trace
from octavo.config import CacheConfig, default_threads
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.types import U8, Batch, Compaction, StepResult, Transfers

NO_PAIRS = np.empty((0, 2), np.int32)

log = logging.getLogger(__name__)


class CpuBackend:
    """Runs batches of up to `max_tokens` tokens of `max_seqs` sequences, none longer than `max_context` tokens.

    isa: "auto" (the best available) or one of `_native.isas()`. threads: None means one for each available core.
    beside: another backend, whose threads are used. The two backends must not run at the same time. Separate pools
    would compete: waiting threads of one take cores from the other. Its weights are used too if it has the same model.
    """

    def __init__(
        self,
        model: Model,
        cache: CacheConfig,
        *,
        threads: int | None = None,
        beside: CpuBackend | None = None,
        isa: str = "auto",
        max_tokens: int = 512,
        max_seqs: int = 64,
        max_context: int | None = None,
        progress: Progress | None = None,
    ):
        check_panels(model)
        warn_of_heads(model, cache.dtype)
        self.model = model
        self.kv_dtype = cache.dtype
        self.isa = choose_isa(isa)
        self.pool: _native.Pool = beside.pool if beside else _native.Pool(threads or default_threads())
        self._kv = _native.KvCache(cache_layers(model), cache.num_blocks, cache.block_size, KV_DTYPES[cache.dtype])
        self._blocks: U8 = _native.ops.kv_memory(self._kv).reshape(cache.num_blocks, -1)
        self._stage: U8 = self._blocks[:0]
        self._kv_block_size = cache.block_size
        self._limits = (max_seqs, max_context or model.max_context)
        trace = fused(model)
        same = beside if beside is not None and beside.model is model else None
        self._weights: PackedMatrices = same._weights if same else PackedMatrices(matrices(trace), self.pool, progress)
        self._plan = self._lower(trace, max_tokens)

    def _lower(self, trace: Trace, max_tokens: int) -> _native.Plan:
        plan = _native.Plan(self.isa, self.pool, self._kv, max_tokens, *self._limits)
        lower(trace, plan, self._weights.views, offsets(self.model, self.kv_dtype))
        return plan

    def share(self, model: Model) -> CpuBackend:
        """A backend with a separate plan and buffers that shares everything else; see `Backend.share`."""
        other = copy.copy(self)
        other.model = model
        other._plan = other._lower(fused(model), self._limits[0])
        return other

    def transfer(self, transfers: Transfers) -> None:
        if transfers.stores is None and transfers.loads is None:
            self._kv.transfer(transfers.moves, transfers.copies)
            return
        self._kv.transfer(transfers.moves, NO_PAIRS)
        host.store(transfers, self._blocks, self._stage)
        self._kv.transfer(NO_PAIRS, transfers.copies)
        host.load(transfers, self._blocks, self._stage)

    @property
    def block_bytes(self) -> int:
        return int(self._blocks.shape[1])

    def stage(self, rows: int) -> U8:
        self._stage = np.empty((rows, self._blocks.shape[1]), np.uint8)
        return self._stage

    def host_pool(self) -> U8:
        return self._blocks

    def compact(self, compaction: Compaction) -> None:
        """Runs the last tokens of the prompt again; each layer then copies what its KV heads keep."""
        window, length, size = len(compaction.token_ids), compaction.length, self._kv_block_size
        positions = np.arange(length - window, length, dtype=np.int32)
        slots = compaction.block_table[positions // size] * np.int32(size) + positions % size
        last = np.array([window - 1], np.int32)
        self._plan.run(
            token_ids=compaction.token_ids,
            positions=positions,
            slot_mapping=slots.astype(np.int32),
            query_starts=np.array([0, window], np.int32),
            context_lens=np.array([length], np.int32),
            block_tables=compaction.block_table[None],
            logit_rows=last,
            targets=np.array([-1], np.int32),
            sampling=None,
            parents=None,
            sinks=None,
            windows=None,
            sink_positions=None,
            tokens=np.empty(1, np.int32),
            finite=np.empty(1, np.uint8),
            logprobs=None,
            ranks=None,
            top_ids=None,
            top_logprobs=None,
            num_top=0,
            logits=None,
            hidden=None,
            compact_to=compaction.targets,
            keep=compaction.keep,
            pool=compaction.pool,
        )

    def run(self, batch: Batch) -> StepResult:
        rows, n = len(batch.logit_rows), batch.num_logprobs
        result = StepResult(np.empty(rows, np.int32), np.empty(rows, np.bool_))
        if n >= 0:
            result.logprobs, result.ranks = np.empty(rows, np.float32), np.empty(rows, np.int32)
            result.top_ids, result.top_logprobs = np.empty((rows, n), np.int32), np.empty((rows, n), np.float32)
        if batch.want_logits:
            result.logits = np.empty((rows, self.model.vocab_size), np.float32)
        if batch.want_hidden:
            result.hidden = np.empty((rows, self.model.hidden_size), np.float32)
        self._plan.run(
            batch.token_ids,
            batch.positions,
            batch.slot_mapping,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.logit_rows,
            batch.targets,
            None if batch.sampling.plain_greedy else batch.sampling,
            batch.parents,
            batch.sinks,
            batch.windows,
            batch.sink_positions,
            result.token_ids,
            result.finite.view(np.uint8),
            result.logprobs,
            result.ranks,
            None if result.top_ids is None else result.top_ids.reshape(-1),
            None if result.top_logprobs is None else result.top_logprobs.reshape(-1),
            max(n, 0),
            None if result.logits is None else result.logits.reshape(-1),
            None if result.hidden is None else result.hidden.reshape(-1),
        )
        return result

    @property
    def threads(self) -> int:
        return self.pool.threads

    def barriers(self, tokens: int = 1) -> float:
        """Operations a layer that run one after the other in a step of this many tokens."""
        return self._plan.barriers(tokens) / self.model.num_layers

    def profile(self, on: bool) -> None:
        """See `ProfiledBackend`."""
        self._plan.profile(on)

    def profiled(self) -> dict[str, dict[str, float]]:
        """See `ProfiledBackend`."""
        seconds = {"prefill": self._plan.profiled(False), "decode": self._plan.profiled(True)}
        return {name: dict(sorted(ops.items(), key=lambda op: -op[1])) for name, ops in seconds.items()}

    def memory(self) -> dict[str, int]:
        return {"weights": self._weights.bytes, "kv": self._kv.bytes, "scratch": self._plan.scratch_bytes}

    def close(self) -> None:
        del self._plan, self._blocks, self._kv, self._weights


def warn_of_heads(model: Model, dtype: str) -> None:
    """Logs that heads are quantised without the rotation that makes it precise, which needs a power of two."""
    odd = sorted({spec.head_dim for spec in model.attention if spec.head_dim & (spec.head_dim - 1)})
    if odd and dtype in QUANTISED:
        sizes = " and ".join(map(str, odd))
        log.warning("kv_cache_dtype %s: heads of %s dimensions are not rotated, which costs precision", dtype, sizes)


def choose_isa(isa: str) -> str:
    available: list[str] = _native.isas()
    if isa == "auto":
        return available[0]
    if isa not in available:
        raise ConfigError(f"isa {isa!r} is not available here: choose from {', '.join(available)} or 'auto'")
    return isa
