"""Scheduling order: plain functions of a sequence. The smallest key runs first.

Every key ends with arrival and index, so age decides among equals. `victims` chooses what is preempted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from octavo.errors import ConfigError
from octavo.types import Sequence

Key = tuple[float, ...]
Order = Callable[[Sequence], Key]


def fcfs(seq: Sequence) -> Key:
    """First come, first served."""
    return (seq.request.arrival, seq.index)


def priority(seq: Sequence) -> Key:
    """The lowest `priority` first, then first come. With equal priorities it is `fcfs`."""
    return (seq.request.priority, seq.request.arrival, seq.index)


def deadline(seq: Sequence) -> Key:
    """The lowest `priority` first, then the earliest deadline; requests without one come last."""
    due = seq.request.deadline
    return (seq.request.priority, math.inf if due is None else due, seq.request.arrival, seq.index)


POLICIES: dict[str, Order] = {"fcfs": fcfs, "priority": priority, "deadline": deadline}


def order(name: str) -> Order:
    """Raises ConfigError for a name that is not in POLICIES."""
    if name not in POLICIES:
        raise ConfigError(f"policy must be one of {', '.join(POLICIES)}; got {name!r}")
    return POLICIES[name]
