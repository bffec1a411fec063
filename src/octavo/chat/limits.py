"""Limits on the time and the characters that a chat template may use.

Templates come from untrusted files. Python cannot interrupt its own primitives, so each of them must be short. Every
value in a template has at most `MAX_VALUE` characters, and the clock is read after each operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from time import perf_counter, thread_time
from typing import Any

from jinja2.runtime import Undefined

MAX_SECONDS = 0.25
MAX_VALUE = 1 << 20  # characters of one value, and of the whole output; an item of a list or mapping counts as 8 more
MAX_WORK = 1 << 25  # characters of all values together, live or not: bounds memory
MAX_DEPTH = 64  # of nested lists; Python hashes tuples recursively, without a depth limit
MAX_BITS = 4096  # of an integer
ITEM = 8


class LimitError(Exception):
    """A template exceeds a limit."""


class Meter:
    """Counts the time and characters of one rendering."""

    def __init__(self, seconds: float = MAX_SECONDS):
        self._seconds = seconds
        self._end = perf_counter() + seconds
        self._cpu_start = thread_time()
        self._left = MAX_WORK
        # id -> (container, size, depth). A template cannot change a container once it is made, so neither can these.
        self._measured: dict[int, tuple[Any, int, int]] = {}

    def tick(self, work: int = 0) -> None:
        """Must be called after each operation. work: characters that it produced. Raises LimitError."""
        self._left -= work
        if self._left < 0:
            raise LimitError(f"it made more than {MAX_WORK >> 20} M characters")
        # The thread's clock excludes time of other threads. It is a system call, so it is read only when needed.
        if perf_counter() > self._end and thread_time() - self._cpu_start > self._seconds:
            raise LimitError(f"it ran for more than {self._seconds * 1000:.0f} ms")

    def allow(self, size: int) -> None:
        """Raises LimitError if a value of `size` characters is too large."""
        if size > MAX_VALUE:
            raise LimitError(f"it made a value of more than {MAX_VALUE >> 20} M characters")

    def size(self, value: Any) -> int:
        """Returns roughly the characters of a value written out. A list that holds another twice counts it twice."""
        return self._measure(value)[0]

    def checked(self, value: Any) -> Any:
        """Returns the value of an expression after counting it. Iterators run to their end here, under the clock."""
        if isinstance(value, str):
            self.allow(len(value))
            self.tick(len(value))
        elif isinstance(value, (list, tuple, Mapping, int)):
            self.allow(self.size(value))
            self.tick(0 if isinstance(value, int) else ITEM * len(value))
        elif isinstance(value, Iterator):
            return iter(self.checked(list(self._watched(value))))
        else:
            self.tick()
        return value

    def _watched(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.tick(ITEM)
            yield item

    def _measure(self, value: Any) -> tuple[int, int]:
        """Returns (size, depth)."""
        if isinstance(value, str):
            return len(value), 0
        if value is None or isinstance(value, (float, Undefined)):
            return ITEM, 0
        if isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise LimitError(f"it made an integer of more than {MAX_BITS} bits")
            return ITEM, 0
        if isinstance(value, range):
            return ITEM * len(value), 1
        if isinstance(value, (list, tuple, Mapping)):
            return self._measure_container(value)
        raise LimitError(f"a list or mapping cannot hold a {type(value).__name__}")

    def _measure_container(self, value: Any) -> tuple[int, int]:
        if (known := self._measured.get(id(value))) is not None:
            return known[1:]
        items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        size, depth = 0, 0
        for item in items:
            item_size, item_depth = self._measure(item)
            size, depth = size + ITEM + item_size, max(depth, item_depth)
        if depth >= MAX_DEPTH:
            raise LimitError(f"it nested lists more than {MAX_DEPTH} deep")
        self._measured[id(value)] = (value, size, depth + 1)
        return size, depth + 1


_CURRENT: ContextVar[Meter] = ContextVar("chat template meter")
current = _CURRENT.get
start = _CURRENT.set
stop = _CURRENT.reset
