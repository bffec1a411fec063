"""Finds requests whose deadline has passed, in O(1) a step while there are none."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from octavo.types import Request


class Deadlines:
    """A heap of (deadline, request id). A request that ends early stays in the heap until its deadline and is then
    skipped."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}  # of unfinished requests

    def add(self, request: Request) -> None:
        if request.deadline is not None:
            self._due[request.request_id] = request.deadline
            heapq.heappush(self._heap, (request.deadline, request.request_id))

    def remove(self, request: Request) -> None:
        self._due.pop(request.request_id, None)

    def passed(self) -> list[str]:
        """Ids of the unfinished requests whose deadline is now or earlier."""
        if not self._heap:
            return []
        now, passed = self._clock(), []
        while self._heap and self._heap[0][0] <= now:
            due, request_id = heapq.heappop(self._heap)
            if self._due.get(request_id) == due:
                passed.append(request_id)
        return passed
