"""Static batching, the baseline: a batch forms when nothing runs, and no sequence joins until the last one has
ended."""

from __future__ import annotations

from octavo.scheduler.continuous import ContinuousScheduler


class StaticScheduler(ContinuousScheduler):
    def _may_admit(self) -> bool:
        return self._queue.may_admit and not self._queue.holders

    def _admit(self, budget: int) -> None:
        if self._may_admit():
            while self._queue.admit():
                pass
