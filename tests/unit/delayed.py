"""A device that computes as late as it may, for tests of what runs one step ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec.structs import replace

from octavo.backends.base import Backend
from octavo.types import I32, Batch, StepResult, Transfers

GARBAGE = 1  # the token that a failed step "chose"


class Misused(BaseException):
    """The engine asked for what no device can do. Not an Exception: those are the engine's to handle."""


class Delayed:
    """Runs `inner` as a queue of work: nothing is computed before a result is asked for.

    before: called with each batch before it runs, and may raise. batches: submitted so far.
    ahead: batches that were submitted while the one before was unread.
    """

    def __init__(self, inner: Backend, before: Callable[[Batch], object] = lambda batch: None):
        self.inner, self.before = inner, before
        self.log: list[str] = []
        self.ahead = self.batches = 0
        self._queue: deque[Callable[[], object]] = deque()
        self._last: Late | None = None  # submitted
        self._chosen: I32 | None = None  # by the batch that ran last

    def transfer(self, transfers: Transfers) -> None:
        self._queue.append(lambda: self.inner.transfer(transfers))
        if transfers.stores is not None or transfers.loads is not None:  # complete when this returns
            while self._queue:
                self._next()

    def submit(self, batch: Batch) -> Late:
        late, self.batches = Late(self, self.batches), self.batches + 1
        if (batch.token_ids < 0).any() and (self._last is None or self._last.read):
            raise Misused("only the step in flight knows tokens that the host does not")
        self._last = late
        self.log.append(f"submit {late.number}")
        self.ahead += any(isinstance(work, Run) for work in self._queue)
        self._queue.append(Run(late, batch))
        return late

    def run(self, batch: Batch) -> StepResult:
        if (batch.token_ids < 0).any():
            raise Misused("run has no step before it")
        return self.submit(batch).result()

    def catch_up(self, late: Late) -> None:
        """Runs what was submitted up to this ticket, in order."""
        self.log.append(f"result {late.number}")
        while late.outcome is None:
            self._next()

    def _next(self) -> None:
        work = self._queue.popleft()
        self._compute(work) if isinstance(work, Run) else work()

    def _compute(self, work: Run) -> None:
        tokens, rows = work.batch.token_ids, len(work.batch.logit_rows)
        if (unknown := tokens < 0).any():
            if self._chosen is None or (-1 - tokens[unknown]).max() >= len(self._chosen):
                raise Misused("a token of a row that the step before does not have")
            tokens = np.where(unknown, self._chosen[np.where(unknown, -1 - tokens, 0)], tokens)
        try:
            batch = replace(work.batch, token_ids=tokens)
            self.before(batch)
            work.late.outcome = result = self.inner.run(batch)
            self._chosen = result.token_ids
        except Exception as error:
            work.late.outcome, self._chosen = error, np.full(rows, GARBAGE, np.int32)

    def __getattr__(self, name: str) -> Any:  # share, memory, close
        return getattr(self.inner, name)


class Late:
    def __init__(self, device: Delayed, number: int):
        self.device, self.number = device, number
        self.outcome: StepResult | Exception | None = None
        self.read = False

    def result(self) -> StepResult:
        if self.read:
            raise Misused("a result was asked for twice")
        self.read = True
        self.device.catch_up(self)
        if isinstance(self.outcome, StepResult):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome


class Run:
    """A batch in the queue. It is read when it runs, so it must not have changed since."""

    def __init__(self, late: Late, batch: Batch):
        self.late, self.batch = late, batch

    def __call__(self) -> None:
        raise AssertionError("`catch_up` computes it")
