"""Seconds of each kernel, for `octavo bench --profile`. Kernels run between events, and not in graphs. The time of the
device for each is counted, what lies between two is not."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from octavo.backends.cuda.launch import Launch

PHASES = ("prefill", "decode")


class Profile:
    """cuda: the module `torch.cuda`, or None where a call returns when its work is done."""

    def __init__(self, cuda: Any = None):
        self.phase = PHASES[0]
        self._cuda = cuda
        self._marks: list[tuple[str, str, Callable[[], float]]] = []

    def run(self, launch: Launch) -> None:
        self._marks.append((self.phase, launch.title, self._timed(launch)))

    def _timed(self, launch: Launch) -> Callable[[], float]:
        """Runs it. Returns what gives its seconds, once the device is done."""
        if self._cuda is None:
            began = time.perf_counter()
            launch()
            took = time.perf_counter() - began
            return lambda: took
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        launch()
        end.record()
        return lambda: float(begin.elapsed_time(end)) / 1e3

    def seconds(self) -> dict[str, dict[str, float]]:
        """By phase and kernel, the longest first."""
        if self._cuda is not None:
            self._cuda.synchronize()
        found: dict[str, defaultdict[str, float]] = {phase: defaultdict(float) for phase in PHASES}
        for phase, title, seconds in self._marks:
            found[phase][title] += seconds()
        return {phase: dict(sorted(kernels.items(), key=lambda kernel: -kernel[1])) for phase, kernels in found.items()}
