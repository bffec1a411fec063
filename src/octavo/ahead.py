"""The engine, one step ahead: it plans and submits the next step while the device computes this one.

    host    submit n | plan n+1, submit n+1 | wait, commit n | plan n+2, submit n+2 | wait, commit n+1
    device           | n .................................... | n+1 ...................................

`scheduler.ahead` says what the plan of n+1 assumes about n. If n+1 cannot be built without the tokens of n, it waits
for them, as in `Engine`. So the overlap changes when a token is computed, never which one.

A step is in flight from `submit` to `result`. Between two calls of `step` at most one is, and nothing is assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import NamedTuple

from octavo.backends.base import AsyncBackend, Backend, BackendLost, Ticket
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.kv.store import Tier
from octavo.scheduler.batch import Schedule
from octavo.spec.proposer import Proposer
from octavo.types import SequenceDelta


class Flight(NamedTuple):
    """A step that is submitted and not committed."""

    plan: Schedule
    ticket: Ticket


def create(
    backend: Backend,
    config: EngineConfig,
    cache_config: CacheConfig,
    vocab_size: int,
    proposer: Proposer | None = None,
    clock: Callable[[], float] = time.monotonic,
    tiers: Many[Tier] = (),
    has_head: bool = True,
) -> Engine:
    """The engine for this backend: one step ahead if the backend has `submit` and the configuration allows it."""
    kind = AheadEngine if config.async_scheduling and isinstance(backend, AsyncBackend) else Engine
    return kind(backend, config, cache_config, vocab_size, proposer, clock, tiers, has_head)


class AheadEngine(Engine):
    """`stats.backend_seconds` is what the engine waited: the device's time that planning did not hide."""

    _backend: AsyncBackend
    _flight: Flight | None = None

    def step(self) -> list[SequenceDelta]:
        """Commits one step, once the next one is submitted. Returns its deltas."""
        if self._proposer is not None and self._flight is None:  # drafts need the tokens before them
            return super().step()
        deltas: list[SequenceDelta] = []
        flight = self._flight or self._launch(deltas)
        self._flight = self._launch_next(flight, deltas) if flight else None
        if flight:
            deltas += self._land(flight)
        if not self.has_work:
            self._flight = None  # every row of it is to be dropped
        self._transfer()
        self.stats.steps += 1
        return deltas

    def _launch(self, deltas: list[SequenceDelta]) -> Flight | None:
        """Submits a step while none is in flight."""
        plan = self._schedule(deltas)
        if not plan.entries:
            self._wait_for_loads()
        try:
            return self._submit(plan) if plan.entries else None
        except BackendLost:
            raise
        except Exception as error:
            self.stats.backend_errors += 1
            deltas += self._isolate(plan, error)
            return None

    def _launch_next(self, flight: Flight, deltas: list[SequenceDelta]) -> Flight | None:
        """Submits the step after `flight`. Returns None if it must wait for the result."""
        if self._proposer is not None or not self.scheduler.foresees(flight.plan):
            return None
        with self.scheduler.assume(flight.plan):
            plan = self._schedule(deltas)
            try:
                return self._submit(plan) if plan.entries else None
            except BackendLost:
                raise
            except Exception:  # it is built again, with known tokens, and if it fails again the culprit is found
                self.scheduler.drop(plan)
                return None

    def _schedule(self, deltas: list[SequenceDelta]) -> Schedule:
        plan = self._timed("schedule_seconds", self.scheduler.schedule)
        deltas += plan.finished
        self._transfer()
        return plan

    def _submit(self, plan: Schedule) -> Flight:
        batch = self._timed("build_seconds", self._builder.build, plan)
        return Flight(plan, self._timed("backend_seconds", self._backend.submit, batch))

    def _land(self, flight: Flight) -> list[SequenceDelta]:
        """Waits for the step and commits it. If it failed, so did the one in flight behind it, which is dropped."""
        plan = flight.plan
        try:
            result = self._timed("backend_seconds", flight.ticket.result)
        except BackendLost:
            raise
        except Exception as error:
            self.stats.backend_errors += 1
            self._flight = None
            return self._isolate(plan, error)
        self.stats.step_tokens = plan.num_tokens
        return self._timed("commit_seconds", self.scheduler.commit, plan, result)
