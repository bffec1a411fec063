"""A drafter's state for each sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from octavo.types import Sequence, Status

State = TypeVar("State")


class States(Generic[State]):
    """One state for each sequence, created at first use. States of finished sequences are dropped when one is added."""

    def __init__(self, make: Callable[[Sequence], State], drop: Callable[[Sequence, State], None] | None = None):
        self._make = make
        self._drop = drop
        self._states: dict[Sequence, State] = {}

    def __getitem__(self, seq: Sequence) -> State:
        state = self._states.get(seq)
        if state is None:
            self.prune()
            state = self._states[seq] = self._make(seq)
        return state

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._states

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._states)

    def prune(self) -> None:
        """Drops the states of finished sequences."""
        for seq in [seq for seq in self._states if seq.status is Status.FINISHED]:
            self.remove(seq)

    def remove(self, seq: Sequence) -> None:
        state = self._states.pop(seq)
        if self._drop is not None:
            self._drop(seq, state)
