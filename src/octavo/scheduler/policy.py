"""Who goes first, and who gives way: plain functions of a sequence. The smallest key runs first.

Every key ends with arrival and index, so that age decides among equals: the oldest of the most urgent is never
preempted, hence always finishes, hence everybody does.
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


def victim(running: list[Sequence]) -> Sequence:
    """Who gives up its blocks when they run out: the last of `running`, which is kept in the policy's order."""
    return running[-1]
