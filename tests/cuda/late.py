"""A device that computes as late as it may, with graphs: what a GPU does, without one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.stream import Stream


class Late(Stream):
    """Nothing runs before an event behind it is waited for. A graph repeats its launches, whose arguments are fixed.

    captured: the launches of all graphs. waits: events that had to run work."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.queue: deque[Callable[[], object]] = deque()
        self.captured: list[Launch] = []
        self.ran = self.replays = 0

    captures = True

    def run(self, launches: Sequence[Launch]) -> None:
        self.queue += launches

    def copy(self, to: Tensor, source: Tensor) -> None:
        self.queue.append(lambda: to.copy_(source))

    def event(self) -> Behind:
        return Behind(self, self.ran + len(self.queue))

    def host(self, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.full(shape, -77, dtype=dtype)

    def graph(self, launches: Sequence[Launch]) -> Callable[[], None]:
        kept = list(launches)
        self.captured += kept

        def replay() -> None:
            self.replays += 1
            self.queue += kept

        return replay


class Behind:
    def __init__(self, stream: Late, work: int):
        self.stream, self.work = stream, work

    def synchronize(self) -> None:
        while self.stream.ran < self.work:
            self.stream.queue.popleft()()
            self.stream.ran += 1


def tensors(launches: Sequence[Launch]) -> Iterator[Tensor]:
    """All that the launches read or write, whole buffers, each once."""
    seen: set[int] = set()
    arguments: list[Any] = [argument for launch in launches for argument in launch.arguments]
    while arguments:
        each = arguments.pop()
        if isinstance(each, tuple):
            arguments += each
        each = getattr(each, "base", each)  # a TensorDescriptor's
        if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in seen:
            seen.add(each.untyped_storage().data_ptr())
            yield torch.empty(0, dtype=each.dtype).set_(each.untyped_storage())
