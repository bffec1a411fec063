"""CUDA graphs of whole steps, one for each size of batch.

A launch from Python takes longer than most kernels run. A graph is captured once, from the launches of a step, and then
replayed by one call. It repeats the same launches with the same arguments: the same addresses, grids and numbers. So
all that differs from step to step lies in device memory, in the step's blob, and a batch is padded to a size that has a
graph. Padding is written to no slot, and is in no work list.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.stream import Stream

logger = logging.getLogger(__name__)
TOKENS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
ROWS = (1, 8, 64, 256, 512, 1024)  # logit rows of steps with fewer of them than tokens


class Shape(NamedTuple):
    """What a graph depends on. rows: 0 if the head is not in it."""

    tokens: int
    rows: int


@lru_cache(maxsize=4096)
def padded(tokens: int, rows: int, max_tokens: int, max_rows: int) -> Shape:
    """The least shape that holds a step."""
    sizes = [size for size in TOKENS if size < max_tokens] + [max_tokens]
    wide = sizes[bisect_left(sizes, tokens)]
    if not rows:
        return Shape(wide, 0)
    heights = sorted({*(size for size in (*ROWS, wide) if size < max_rows), max_rows})
    return Shape(wide, heights[bisect_left(heights, rows)])


class Graphs:
    """Runs a pass's launches, from the second time on as a graph."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._graphs: dict[Shape, Callable[[], None]] = {}

    def run(self, shape: Shape, launches: Callable[[], list[Launch]]) -> None:
        """launches: of this shape; asked for once."""
        if replay := self._graphs.get(shape):
            replay()
            return
        made = launches()
        self._stream.run(made)  # this step's result; it also loads the kernels, which a capture cannot do
        self._graphs[shape] = self._capture(shape, made)

    def _capture(self, shape: Shape, launches: list[Launch]) -> Callable[[], None]:
        began, free = time.perf_counter(), self._stream.free_memory()
        replay = self._stream.graph(launches)
        took, bytes = time.perf_counter() - began, free - self._stream.free_memory()
        logger.info(
            "captured a graph of %d launches for %d tokens and %d logit rows: %.2f s, %.1f MB",
            len(launches), *shape, took, bytes / 1e6,
        )  # fmt: skip
        return replay
