"""The engine's interface to speculation: guesses at each sequence's next tokens. An ordinary step verifies them.

The engine sees a `Proposer`. It holds one `Drafter` for each method and decides how much of their guesses to verify:
`Fixed` here, or `controller.Controller`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

from octavo.types import ScheduledSequence, Sequence, StepResult


class Proposer(Protocol):
    def propose(self, sequences: list[Sequence]) -> None:
        """Sets `seq.drafts` of each sequence of the next decode step; an empty list drafts nothing.

        A draft changes the speed only, never the output. The scheduler may cut drafts short: at max_tokens, at the
        context's end, and when the token budget or the blocks do not suffice. If this raises, the step runs without
        drafts.
        """


@runtime_checkable
class Observer(Protocol):
    """A proposer, or a drafter, that learns from the steps."""

    @property
    def wants_hidden(self) -> bool:
        """Whether it needs `result.hidden`."""

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        """Called after each step's commit. seconds: the backend's."""


class Guess(NamedTuple):
    """Tokens that may come next, and the method's confidence in them: a match length, 0 if it has none.

    parents: for a tree, the index of each token's parent within `tokens`, -1 for the first level; a parent comes before
    its children. None: a chain.
    """

    tokens: list[int]
    confidence: int = 0
    parents: list[int] | None = None


class Drafter(Protocol):
    """One drafting method. It keeps its state of each sequence and drops that of finished ones."""

    name: str
    runs_model: bool  # a guess costs model time, so its length is decided beforehand

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        """A guess of at most `limits[i]` tokens for each sequence."""


NOTHING = Guess([])


class Fixed:
    """A proposer that always verifies all that one method guesses, at most `count` tokens."""

    def __init__(self, drafter: Drafter, count: int):
        self._drafter = drafter
        self._count = count
        self._observers = observers([drafter])
        self.wants_hidden = any(observer.wants_hidden for observer in self._observers)

    def propose(self, sequences: list[Sequence]) -> None:
        limits = [min(self._count, room(seq)) for seq in sequences]
        for seq, guess in zip(sequences, self._drafter.draft(sequences, limits), strict=True):
            seq.drafts, seq.draft_parents = guess.tokens, guess.parents

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        for observer in self._observers:
            observer.observe(entries, result, seconds)


def observers(drafters: Iterable[Drafter]) -> list[Observer]:
    """The drafters that learn from the steps."""
    return [drafter for drafter in drafters if isinstance(drafter, Observer)]


def room(seq: Sequence) -> int:
    """The most tokens worth drafting: the step itself adds one more."""
    return max(0, seq.max_length - len(seq.token_ids) - 1)
