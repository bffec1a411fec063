"""What the sections share: the clock, the figures, timing by graph replay, the table at the end."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from octavo.backends.cuda.launch import INTERPRETED

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


class Figure(NamedTuple):
    section: str
    name: str
    value: Any
    unit: str


class Report:
    """seconds: after which no section begins anything more."""

    def __init__(self, seconds: float):
        self.begin, self.seconds = time.monotonic(), seconds
        self.section = ""
        self.figures: list[Figure] = []

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.begin)

    def add(self, name: str, value: Any, unit: str = "") -> None:
        shown = f"{value:.4g}" if isinstance(value, float) else value
        self.figures.append(Figure(self.section, name, value, unit))
        print(f"{time.monotonic() - self.begin:6.1f} s  {self.section:10s} {name:58s} {shown} {unit}", flush=True)

    def write(self) -> None:
        if folder := os.environ.get("OUT"):
            path = Path(folder) / "device.json"
            path.write_text(json.dumps([figure._asdict() for figure in self.figures], indent=1, default=str))

    def failures(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.value is False or figure.unit == "failed"]

    def table(self) -> str:
        """Markdown, for docs/cuda.md."""
        lines = ["| section | what | figure | |", "|---|---|---|---|"]
        for section, name, value, unit in self.figures:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"| {section} | {name} | {shown} | {unit} |")
        return "\n".join(lines)


def microseconds(calls: Sequence[Callable[[], object]], replays: int = 7) -> float:
    """The median time of one of these calls, all of them in a graph. They should have their own weights, or those come
    from the L2 cache."""
    for call in calls:
        call()  # compiles, and loads the kernel, which a capture cannot do
    if INTERPRETED:
        return float("nan")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)
