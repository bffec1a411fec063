"""Prompt lookup (Saxena 2023; Yang et al. 2304.04487): what followed the last tokens when they occurred before?

An edited copy goes on beside where it left its source. So a cursor keeps step with the source: long matches set it, and
it decides between short ones. At first, far behind the end, it prefers the latest.

The index maps each n-gram of the shortest length to the places where it ended; a lookup compares backwards from the
latest of these. It grows with the sequence, so a step costs a few dictionary operations.
"""

from __future__ import annotations

from bisect import bisect_left

from octavo.spec.proposer import NOTHING, Guess
from octavo.spec.states import States
from octavo.types import Sequence

CANDIDATES = 16  # occurrences compared in one lookup: the latest ones
AROUND = 4  # and so many on either side of the cursor
TRUSTED = 3  # tokens of a match that moves the cursor


class NgramIndex:
    """Over one growing list of tokens. shortest, longest: tokens of a match; a longer match is not looked for."""

    def __init__(self, shortest: int, longest: int):
        self._shortest = shortest
        self._longest = longest
        self._places: dict[tuple[int, ...], list[int]] = {}  # n-gram -> positions right after it, rising
        self._cursor = 1 << 40  # where the text goes on if it is a copy with small changes; at first: beyond the end
        self._indexed = 0  # tokens whose n-grams are in: all but the last, which nothing follows yet

    def extend(self, tokens: list[int]) -> None:
        """Takes in what `tokens` has more than last time. They only ever grow."""
        first = max(0, self._indexed - self._shortest + 1)
        known = tokens[first:-1]
        grams = zip(*(known[i:] for i in range(self._shortest)), strict=False)
        for place, gram in enumerate(grams, first + self._shortest):
            self._places.setdefault(gram, []).append(place)
        self._cursor += max(0, len(tokens) - 1 - self._indexed)
        self._indexed = max(self._indexed, len(tokens) - 1)

    def lookup(self, tokens: list[int], limit: int) -> Guess:
        """What followed the longest earlier occurrence of the last tokens; of equal ones that next to the cursor."""
        places = self._places.get(tuple(tokens[-self._shortest :]))
        if not places or limit < 1:
            return NOTHING
        best = max(self._near(places), key=lambda place: (self._matched(tokens, place), -abs(place - self._cursor)))
        length = self._matched(tokens, best)
        if length >= TRUSTED:
            self._cursor = best
        return Guess(_repeat(tokens, best, limit), length)

    def _near(self, places: list[int]) -> list[int]:
        """The places to compare: the latest ones, and those around the cursor."""
        middle = bisect_left(places, self._cursor)
        return places[-CANDIDATES:] + places[max(0, middle - AROUND) : middle + AROUND]

    def chains(self, tokens: list[int], limit: int, width: int) -> list[list[int]]:
        """What followed the `width` longest matches that went on differently."""
        places = self._places.get(tuple(tokens[-self._shortest :]), [])[-CANDIDATES:]
        if limit < 1:
            return []
        ranked = sorted(reversed(places), key=lambda place: -self._matched(tokens, place))
        found = dict.fromkeys(tuple(_repeat(tokens, place, limit)) for place in ranked)
        return [list(chain) for chain in found][:width]

    def _matched(self, tokens: list[int], place: int) -> int:
        """How many tokens before `place` are the last ones of the text."""
        length, most = self._shortest, min(self._longest, place)
        while length < most and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        return length


def _repeat(tokens: list[int], place: int, count: int) -> list[int]:
    """`count` tokens from `place` on; where the text ends it goes on as if it were periodic."""
    copied = tokens[place : place + count]
    period = len(tokens) - place
    return copied if len(copied) == count else [tokens[place + i % period] for i in range(count)]


class NgramDrafter:
    name = "ngram"
    runs_model = False

    def __init__(self, shortest: int = 2, longest: int = 16):
        self._indexes: States[NgramIndex] = States(lambda _: NgramIndex(shortest, longest))

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [self._index(seq).lookup(seq.token_ids, limit) for seq, limit in zip(sequences, limits, strict=True)]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        pairs = zip(sequences, limits, strict=True)
        return [self._index(seq).chains(seq.token_ids, limit, width) for seq, limit in pairs]

    def _index(self, seq: Sequence) -> NgramIndex:
        index = self._indexes[seq]
        index.extend(seq.token_ids)
        return index
