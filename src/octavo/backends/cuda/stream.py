"""What the backend needs of `torch.cuda`: work that runs in the order of the calls while Python goes on, and memory on
the host for its copies. On the CPU, where Triton interprets, a call returns when its work is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.profile import Profile
from octavo.types import I32

IN_FLIGHT = 3  # steps whose host memory is not written again: one that runs, one behind it, one whose result is read


class Event(Protocol):
    def synchronize(self) -> None:
        """Waits for all work before the event."""


class Done:
    """The event of work that is done."""

    def synchronize(self) -> None: ...


class Stream:
    """cuda: the module `torch.cuda`, or None on the CPU."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda):
        self.device = device
        self._cuda = cuda if device.type == "cuda" else None
        self._pool: Any = None  # of the graphs' memory
        self.profile: Profile | None = None  # while it is there, graphs must not run

    @property
    def captures(self) -> bool:
        """Whether there are graphs."""
        return self._cuda is not None

    def run(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            launch() if self.profile is None else self.profile.run(launch)

    def start_profile(self) -> None:
        self.profile = Profile(self._cuda)

    def copy(self, to: Tensor, source: Tensor) -> None:
        to.copy_(source, non_blocking=True)

    def event(self) -> Event:
        """An event behind all work so far."""
        if self._cuda is None:
            return Done()
        event = self._cuda.Event()
        event.record()
        done: Event = event
        return done

    def host(self, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Host memory that copies run beside."""
        return torch.empty(*shape, dtype=dtype, pin_memory=self._cuda is not None)

    def graph(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """Captures these launches, without running them. Each kernel must have run before: Triton loads a kernel at its
        first launch, which a capture forbids. All graphs have one memory pool. Other threads may use the device."""
        assert self._cuda is not None
        graph = self._cuda.CUDAGraph()
        self._pool = self._pool or self._cuda.graph_pool_handle()
        with self._cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self.run(launches)
        replay: Callable[[], None] = graph.replay
        return replay

    def free_memory(self) -> int:
        """Bytes of the device."""
        return 0 if self._cuda is None else int(self._cuda.mem_get_info(self.device)[0])


class Ring:
    """Host memory for the copies of steps in flight. A piece is used again after `IN_FLIGHT` others."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._pieces: deque[tuple[Tensor, Event]] = deque()

    def take(self, size: int) -> Tensor:
        """[size] int32. Waits until the copy that used it has run."""
        room = size
        if len(self._pieces) == IN_FLIGHT:
            host, copied = self._pieces.popleft()
            copied.synchronize()
            if len(host) >= size:
                return host[:size]
            room = 2 * size
        return self._stream.host(room)[:size]

    def give(self, host: Tensor, copied: Event) -> None:
        """Returns what `take` gave. copied: an event behind the copy."""
        self._pieces.append((host if host._base is None else host._base, copied))


class Upload:
    """Sends arrays to one place on the device."""

    def __init__(self, stream: Stream, size: int = 0):
        self._stream, self._ring = stream, Ring(stream)
        self.data = torch.zeros(size, dtype=torch.int32, device=stream.device)

    def __call__(self, array: I32) -> Tensor:
        """Returns where it will be, for work that is behind this in the stream."""
        if len(array) > len(self.data):  # work in the stream still reads the old memory, and runs before its next owner
            self.data = torch.zeros(2 * len(array), dtype=torch.int32, device=self._stream.device)
        host = self._ring.take(len(array))
        host.numpy()[:] = array
        to = self.data[: len(array)]
        self._stream.copy(to, host)
        self._ring.give(host, self._stream.event())
        return to
