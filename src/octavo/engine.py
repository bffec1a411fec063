"""The engine: requests in, tokens out. One step: propose -> schedule -> run -> commit."""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter

from octavo.backends.base import Backend
from octavo.config import CacheConfig, EngineConfig, check
from octavo.kv import manager
from octavo.sampling import params
from octavo.scheduler import create
from octavo.scheduler.batch import BatchBuilder, Schedule
from octavo.spec.proposer import Observer, Proposer
from octavo.types import Batch, Request, Sequence, SequenceDelta, Status, StepResult

log = logging.getLogger(__name__)


class Engine:
    """Not thread-safe: one thread calls add, abort and step. Both configs come from `kv.planner.resolve`."""

    def __init__(
        self,
        backend: Backend,
        config: EngineConfig,
        cache_config: CacheConfig,
        vocab_size: int,
        proposer: Proposer | None = None,
    ):
        check(config)
        self.cache = manager.create(config, cache_config)
        self.scheduler = create(config, self.cache)
        self.stats = self.scheduler.stats
        self._backend = backend
        self._vocab_size = vocab_size
        self._proposer = proposer
        self._observer: Observer | None = None
        self.speculate(proposer)
        self._builder = BatchBuilder(self.cache.tables, partial(params.build, vocab_size=vocab_size))

    def speculate(self, proposer: Proposer | None) -> None:
        """Lets `proposer` draft from the next step on; None stops speculation."""
        self._proposer = proposer
        self._observer = proposer if isinstance(proposer, Observer) else None

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> list[Sequence]:
        """Queues a request; returns its n sequences. Raises RequestError or CapacityError if it can never run."""
        params.check_ids(request, self._vocab_size)
        return self.scheduler.add(request)

    def abort(self, request_id: str) -> list[SequenceDelta]:
        """Ends a request and frees its blocks at once. Returns its last deltas; none if it is unknown or has ended."""
        return self.scheduler.end_request(request_id, "abort")

    def step(self) -> list[SequenceDelta]:
        """Runs one batch and returns what is new for each sequence: an empty list when there is nothing to say."""
        self._propose()
        start, backend_start = perf_counter(), self.stats.backend_seconds
        plan = self.scheduler.schedule()
        self._transfer()
        deltas = plan.finished + (self._run(plan) if plan.chunks else [])
        self._transfer()
        self.stats.steps += 1
        self.stats.control_seconds += perf_counter() - start - (self.stats.backend_seconds - backend_start)
        return deltas

    def _propose(self) -> None:
        if self._proposer is None:
            return
        start, sequences = perf_counter(), self.scheduler.decoding()
        try:
            self._proposer.propose(sequences)
        except Exception:
            log.exception("the proposer failed; this step runs without drafts")
            for seq in sequences:
                seq.drafts = []
        self.stats.draft_seconds += perf_counter() - start

    def _transfer(self) -> None:
        """Makes the copies within the KV pool that are pending: before a step those that `schedule` asks for, after it
        those of `commit`, which the next drafts may read. A failure is not caught: see `Backend.transfer`."""
        if (transfers := self.cache.transfers.take()) is not None:
            start = perf_counter()
            self._backend.transfer(transfers)
            self.stats.backend_seconds += perf_counter() - start

    def _run(self, plan: Schedule) -> list[SequenceDelta]:
        """Builds, runs and commits a batch. If that raises, each chunk runs alone, so that only the culprit fails."""
        before = self.stats.backend_seconds
        try:
            wants_hidden = self._observer is not None and self._observer.wants_hidden
            result = self._timed_run(self._builder.build(plan.chunks, wants_hidden))
        except Exception:
            self.stats.backend_errors += 1
            return self._isolate(plan)
        deltas = self.scheduler.commit(plan, result)
        self._observe(plan, result, self.stats.backend_seconds - before)
        return deltas

    def _timed_run(self, batch: Batch) -> StepResult:
        start = perf_counter()
        try:
            return self._backend.run(batch)
        finally:
            self.stats.backend_seconds += perf_counter() - start

    def _observe(self, plan: Schedule, result: StepResult, seconds: float) -> None:
        if self._observer is None:
            return
        try:
            self._observer.observe(plan.chunks, result, seconds)
        except Exception:
            log.exception("the proposer failed to learn from a step")

    def _isolate(self, plan: Schedule) -> list[SequenceDelta]:
        """Repeating a chunk is harmless: it writes the same values to the same slots. Transfers are not repeated."""
        if len(plan.chunks) == 1:
            request_id = plan.chunks[0].seq.request.request_id
            log.exception("request %s failed", request_id)
            return self.scheduler.end_request(request_id, "error")
        deltas: list[SequenceDelta] = []
        for chunk in plan.chunks:
            if chunk.seq.status is not Status.FINISHED:
                deltas += self._run(plan.alone(chunk))
        return deltas
