"""Suffix decoding (2411.04975): a suffix automaton over a sequence's tokens proposes the most frequent continuation.

The automaton (Blumer et al. 1985) has a state for each set of substrings that end at the same places. The suffix link
of the whole text's state is the longest suffix that occurred before: the match. Walking from it along the most frequent
transitions gives the draft, as long as the product of their frequencies stays above `min_probability`.
"""

from __future__ import annotations

from collections.abc import Iterable

from octavo.spec.proposer import NOTHING, Guess
from octavo.spec.states import States
from octavo.types import Sequence

ROOT = 0
COUNTED = 32  # suffixes counted for each token, the longest first: bounds the work on periodic text


class SuffixAutomaton:
    def __init__(self) -> None:
        self.lengths = [0]  # of each state's longest substring
        self.links = [-1]  # to the state of its longest suffix with more occurrences
        self.nexts: list[dict[int, int]] = [{}]
        self.counts = [0]  # occurrences counted while the state was among the COUNTED longest suffixes
        self.ends = [0]  # end of its last occurrence
        self.last = ROOT
        self.size = 0  # tokens indexed

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._append(token)
            self._count()

    def _append(self, token: int) -> None:
        self.size += 1
        new, state = self._state(self.size, {}), self.last
        nexts, links = self.nexts, self.links
        while state >= 0 and token not in nexts[state]:
            nexts[state][token] = new
            state = links[state]
        self.last = new
        if state < 0:
            links[new] = ROOT
            return
        target = nexts[state][token]
        if self.lengths[target] != self.lengths[state] + 1:
            target = self._split(state, token, target)
        links[new] = target

    def _split(self, state: int, token: int, target: int) -> int:
        """A state for the shorter substrings of `target`, which now end at more places than its longer ones."""
        clone = self._state(self.lengths[state] + 1, dict(self.nexts[target]))
        self.counts[clone], self.ends[clone] = self.counts[target], self.ends[target]
        self.links[clone], self.links[target] = self.links[target], clone
        while state >= 0 and self.nexts[state].get(token) == target:
            self.nexts[state][token] = clone
            state = self.links[state]
        return clone

    def _state(self, length: int, nexts: dict[int, int]) -> int:
        self.lengths.append(length)
        self.links.append(ROOT)
        self.nexts.append(nexts)
        self.counts.append(0)
        self.ends.append(0)
        return len(self.lengths) - 1

    def _count(self) -> None:
        state = self.last
        for _ in range(COUNTED):
            if state <= ROOT:
                return
            self.counts[state] += 1
            self.ends[state] = self.size
            state = self.links[state]

    def match(self) -> tuple[int, int]:
        """(state, length) of the longest suffix of the text that occurred earlier."""
        state = max(ROOT, self.links[self.last])
        return state, self.lengths[state]

    def follow(self, state: int, length: int, token: int) -> tuple[int, int]:
        """The match (state, length) after one more token: shortened until the token can follow."""
        while state > ROOT and token not in self.nexts[state]:
            state = self.links[state]
            length = self.lengths[state]
        if token in self.nexts[state]:
            return self.nexts[state][token], length + 1
        return ROOT, 0

    def continuation(self, state: int, limit: int, min_probability: float) -> list[int]:
        """The most frequent tokens after a match; the latest among equals."""
        tokens: list[int] = []
        probability = 1.0
        while len(tokens) < limit:
            while state > ROOT and not self.nexts[state]:  # the end of the text: continue with a shorter match
                state = self.links[state]
            if state == ROOT:
                break
            token, share = self._likeliest(state)
            probability *= share
            if probability < min_probability:
                break
            tokens.append(token)
            state = self.nexts[state][token]
        return tokens

    def chains(self, state: int, limit: int, width: int, min_probability: float) -> list[list[int]]:
        """The most likely continuation, then the continuations that branch off it at each token, most frequent
        first."""
        best = self.continuation(state, limit, min_probability)
        chains = [best]
        for place, token in enumerate(best):
            nexts = self.nexts[state]
            others = sorted(nexts, key=lambda token: -self.counts[nexts[token]])
            for other in [other for other in others if other != token][: width - 1]:
                rest = self.continuation(nexts[other], limit - place - 1, min_probability)
                chains.append([*best[:place], other, *rest])
            if token not in nexts:
                break
            state = nexts[token]
        return chains

    def _likeliest(self, state: int) -> tuple[int, float]:
        nexts, counts = self.nexts[state], self.counts
        if len(nexts) == 1:
            return next(iter(nexts)), 1.0
        token = max(nexts, key=lambda token: (counts[nexts[token]], self.ends[nexts[token]]))
        return token, counts[nexts[token]] / max(1, sum(counts[target] for target in nexts.values()))


class SuffixDrafter:
    """A draft is at most `factor` times as long as its match."""

    name = "suffix"
    runs_model = False

    def __init__(self, factor: float = 2.0, min_probability: float = 0.1, shortest: int = 2):
        self._factor = factor
        self._min_probability = min_probability
        self._shortest = shortest
        self._automata: States[SuffixAutomaton] = States(lambda _: SuffixAutomaton())

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [self._guess(seq, limit) for seq, limit in zip(sequences, limits, strict=True)]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        return [self._chains(seq, limit, width) for seq, limit in zip(sequences, limits, strict=True)]

    def _chains(self, seq: Sequence, limit: int, width: int) -> list[list[int]]:
        automaton = self._automaton(seq)
        state, length = automaton.match()
        if length < self._shortest or limit < 1:
            return []
        return automaton.chains(state, limit, width, self._min_probability)

    def _automaton(self, seq: Sequence) -> SuffixAutomaton:
        automaton = self._automata[seq]
        automaton.extend(seq.token_ids[automaton.size :])
        return automaton

    def _guess(self, seq: Sequence, limit: int) -> Guess:
        automaton = self._automaton(seq)
        return self.continue_from(automaton, *automaton.match(), limit)

    def continue_from(self, automaton: SuffixAutomaton, state: int, length: int, limit: int) -> Guess:
        if length < self._shortest:
            return NOTHING
        limit = min(limit, int(self._factor * length))
        return Guess(automaton.continuation(state, limit, self._min_probability), length)
