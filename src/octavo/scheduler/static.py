"""Static batching, the baseline: a batch forms when nothing runs, and nobody joins until its last sequence ended."""

from __future__ import annotations

from octavo.scheduler.continuous import ContinuousScheduler


class StaticScheduler(ContinuousScheduler):
    def _admit(self, budget: int) -> None:
        if not self._roster.running:
            while self._roster.admit():
                pass
