"""The engine: requests in, tokens out. One step: propose -> schedule -> run -> commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from octavo.backends.base import AsyncBackend, Backend, BackendLost, Offloads
from octavo.config import CacheConfig, EngineConfig, check
from octavo.errors import RequestError
from octavo.kv import manager
from octavo.kv.offload import OffloadedCache
from octavo.kv.store import Store, Tier, stage_rows
from octavo.kv.swap_costs import SwapCosts
from octavo.sampling import params
from octavo.scheduler import create
from octavo.scheduler.batch import BatchBuilder, Schedule
from octavo.spec.proposer import Observer, Proposer
from octavo.types import Request, Sequence, SequenceDelta, Status, StepResult

log = logging.getLogger(__name__)
LOAD_POLL = 0.02  # seconds without a loaded block after which a step returns
Value = TypeVar("Value")


class Engine:
    """Not thread-safe: one thread calls add, abort and step. Both configs come from `kv.planner.resolve`.

    tiers: where KV blocks go that leave the pool (`kv.store`). They are closed with the engine.
    has_head: see `ir.Model`. Without a head only pooled requests are taken.
    """

    _store: Store | None = None

    def __init__(
        self,
        backend: Backend,
        config: EngineConfig,
        cache_config: CacheConfig,
        vocab_size: int,
        proposer: Proposer | None = None,
        clock: Callable[[], float] = time.monotonic,
        tiers: Many[Tier] = (),
        has_head: bool = True,
    ):
        check(config)
        self.cache = manager.create(config, cache_config, bool(tiers))
        self.scheduler = create(config, self.cache, clock)
        if tiers:
            self._use_tiers(tiers, backend, config)
        self.stats = self.scheduler.stats
        self._backend = backend
        self._vocab_size = vocab_size
        self._has_head = has_head
        self._proposer = proposer
        self._observer: Observer | None = None
        self.speculate(proposer)
        self._builder = BatchBuilder(self.cache.tables, partial(params.build, vocab_size=vocab_size))

    def _use_tiers(self, tiers: Many[Tier], backend: Backend, config: EngineConfig) -> None:
        assert isinstance(self.cache, OffloadedCache) and isinstance(backend, Offloads)
        size = backend.block_bytes
        # A device that runs behind may still write to a block that the control plane has given to somebody else.
        pool = None if isinstance(backend, AsyncBackend) else backend.host_pool()
        self._store = Store(list(tiers), backend.stage(stage_rows(size)), pool, self.cache.transfers)
        costs = SwapCosts(self.cache.block_size) if config.preemption_mode == "auto" else None
        self.cache.use_store(self._store, costs)
        if costs is not None:
            self.scheduler.learn_costs(costs)

    def speculate(self, proposer: Proposer | None) -> None:
        """Lets `proposer` draft from the next step on; None stops speculation."""
        self._proposer = proposer
        self._observer = proposer if isinstance(proposer, Observer) else None

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> list[Sequence]:
        """Queues a request; returns its n sequences. Raises RequestError or CapacityError if it can never run."""
        if not self._has_head and request.pooling is None:
            raise RequestError("this model embeds texts and generates none: its files have no language-model head")
        params.check_ids(request, self._vocab_size)
        return self.scheduler.add(request)

    def abort(self, request_id: str) -> list[SequenceDelta]:
        """Ends a request and frees its blocks at once. Returns its last deltas; none if it is unknown or has ended."""
        return self.scheduler.end_request(request_id, "abort")

    def step(self) -> list[SequenceDelta]:
        """Runs one batch and returns the deltas of its sequences, an empty list if there are none."""
        self._propose()
        plan = self._timed("schedule_seconds", self.scheduler.schedule)
        self._transfer()
        if not plan.entries:
            self._wait_for_loads()
        deltas = plan.finished + (self._run(plan) if plan.entries else [])
        self._transfer()
        self.stats.steps += 1
        return deltas

    def _timed(self, name: str, call: Callable[..., Value], *arguments: Any) -> Value:
        """Returns the call's result and adds its seconds, even if it raises, to the statistic of that name."""
        start = perf_counter()
        try:
            return call(*arguments)
        finally:
            setattr(self.stats, name, getattr(self.stats, name) + perf_counter() - start)

    def _propose(self) -> None:
        if self._proposer is None:
            return
        sequences = self.scheduler.decoding()
        try:
            self._timed("draft_seconds", self._proposer.propose, sequences)
        except Exception:
            log.exception("the proposer failed; this step runs without drafts")
            for seq in sequences:
                seq.drafts = []

    def _transfer(self) -> None:
        """Makes the pending copies and compactions within the KV pool.

        Before a step these come from `schedule`, after it from `commit`; the next drafts may read the latter. A failure
        is not caught: see `Backend.transfer`."""
        if (transfers := self.cache.transfers.take()) is not None:
            self._timed("backend_seconds", self._backend.transfer, transfers)
        for compaction in self.cache.transfers.take_compactions():
            self._timed("backend_seconds", self._backend.compact, compaction)
        if self._store is not None:
            self._store.transferred()

    def _wait_for_loads(self) -> None:
        """If sequences only wait for blocks, a step returns soon, but not at once: that would keep a core busy."""
        if self._store is not None:
            self._store.loads.wait(LOAD_POLL)

    def close(self) -> None:
        """Stores what the KV pool holds, if there are tiers for it. The engine can run no further step."""
        self.cache.close(self._transfer)

    def _run(self, plan: Schedule) -> list[SequenceDelta]:
        """Builds, runs and commits a batch. If that raises, each sequence runs alone: only the culprit fails."""
        before = self.stats.backend_seconds
        wants_hidden = self._observer is not None and self._observer.wants_hidden
        try:
            batch = self._timed("build_seconds", self._builder.build, plan, wants_hidden)
            result = self._timed("backend_seconds", self._backend.run, batch)
        except BackendLost:
            raise
        except Exception as error:
            self.stats.backend_errors += 1
            return self._isolate(plan, error)
        seconds = self.stats.backend_seconds - before
        deltas = self._timed("commit_seconds", self.scheduler.commit, plan, result)
        if self._observer is not None:
            self._timed("commit_seconds", self._observe, self._observer, plan, result, seconds)
        return deltas

    def _observe(self, observer: Observer, plan: Schedule, result: StepResult, seconds: float) -> None:
        try:
            observer.observe(plan.entries, result, seconds)
        except Exception:
            log.exception("the proposer failed to learn from a step")

    def _isolate(self, plan: Schedule, error: Exception) -> list[SequenceDelta]:
        """Runs each sequence alone. Repeating a batch is safe: it writes the same values to the same slots. Transfers
        are not repeated."""
        self.scheduler.leave_short_path()
        deltas: list[SequenceDelta] = []
        for entry in plan.entries:
            if entry.seq.status is Status.FINISHED:
                continue
            if len(plan.entries) == 1:
                return self._fail(entry.seq.request.request_id, error)
            deltas += self._run(plan.alone(entry))
        return deltas

    def _fail(self, request_id: str, error: Exception) -> list[SequenceDelta]:
        deltas = self.scheduler.end_request(request_id, "error")
        if isinstance(error, RequestError):  # a grammar that cannot be followed, for example
            log.warning("request %s ends: %s", request_id, error)
            for delta in deltas:
                delta.error = (str(error), error.field)
        else:
            log.error("request %s failed", request_id, exc_info=error)
        return deltas
