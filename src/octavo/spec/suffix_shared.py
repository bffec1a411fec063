"""Suffix decoding over the outputs of earlier requests: one bounded automaton for each cache salt.

Tenants with different salts never share text, not even as drafts: response times would reveal it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from octavo.spec.proposer import Guess
from octavo.spec.states import States
from octavo.spec.suffix import ROOT, SuffixAutomaton, SuffixDrafter
from octavo.types import Sequence

BETWEEN = -1  # no token: keeps a match from running from one text into the next


@dataclass(slots=True)
class Cursor:
    """How far a sequence's tokens have been matched against the automaton."""

    automaton: SuffixAutomaton
    state: int = ROOT
    length: int = 0
    taken: int = 0


class SharedSuffixDrafter(SuffixDrafter):
    """Drafts from the sequence's own text, or from earlier requests' outputs if their match is longer.

    max_tokens: tokens kept in total. At the limit, the least recently used salt is cleared.
    """

    def __init__(self, max_tokens: int, factor: float = 2.0, min_probability: float = 0.1, shortest: int = 2):
        super().__init__(factor, min_probability, shortest)
        self._max_tokens = max_tokens
        self._shared: OrderedDict[str, SuffixAutomaton] = OrderedDict()
        self._cursors: States[Cursor] = States(lambda seq: Cursor(self._of(seq)), lambda seq, _: self._learn(seq))

    def _of(self, seq: Sequence) -> SuffixAutomaton:
        return self._shared.setdefault(seq.request.cache_salt, SuffixAutomaton())

    def _learn(self, seq: Sequence) -> None:
        """Indexes the output of a finished sequence, unless it ended with an error."""
        if seq.finish_reason == "error":
            return
        output = seq.token_ids[seq.num_prompt_tokens :][: self._max_tokens // 2]
        self._of(seq).extend([BETWEEN, *output])
        self._shared.move_to_end(seq.request.cache_salt)
        while sum(automaton.size for automaton in self._shared.values()) > self._max_tokens:
            self._shared.popitem(last=False)

    def _guess(self, seq: Sequence, limit: int) -> Guess:
        own = super()._guess(seq, limit)
        cursor = self._cursors[seq]
        if cursor.automaton is not (automaton := self._of(seq)):
            cursor.automaton, cursor.state, cursor.length, cursor.taken = automaton, ROOT, 0, 0
        for token in seq.token_ids[cursor.taken :]:
            cursor.state, cursor.length = automaton.follow(cursor.state, cursor.length, token)
        cursor.taken = len(seq.token_ids)
        if cursor.length <= own.confidence:
            return own
        return self._without_breaks(self.continue_from(automaton, cursor.state, cursor.length, limit))

    def _without_breaks(self, guess: Guess) -> Guess:
        if BETWEEN not in guess.tokens:
            return guess
        return guess._replace(tokens=guess.tokens[: guess.tokens.index(BETWEEN)])
