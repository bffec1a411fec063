"""Prompt lookup (Saxena 2023; Yang et al. 2304.04487): what followed the last tokens when they occurred before?

In an edited copy (`copying`) the place where the source resumes decides between matches of equal length, and is used
when nothing matches. Known changes are applied again. Otherwise the latest match wins.

The index maps each n-gram of the shortest length to the places where it ended; a lookup compares backwards from the
latest ones. It grows with the sequence, so a step costs a few dictionary operations.
"""

from __future__ import annotations

from bisect import bisect_left

from octavo.spec.copying import Copying
from octavo.spec.proposer import NOTHING, Guess
from octavo.spec.states import States
from octavo.types import Sequence

CANDIDATES = 16  # occurrences compared in one lookup: the latest ones
AROUND = 4  # occurrences compared on either side of where a copy may resume
TRUSTED = 3  # tokens of a match that identifies the source of a copy


class NgramIndex:
    """Over one growing list of tokens. shortest, longest: tokens of a match; a longer match is not looked for."""

    def __init__(self, shortest: int, longest: int):
        self._shortest = shortest
        self._longest = longest
        self._places: dict[tuple[int, ...], list[int]] = {}  # n-gram -> positions right after it, rising
        self._copying = Copying()
        self._indexed = 0  # tokens whose n-grams are indexed: all but the last, which has no successor yet

    def extend(self, tokens: list[int]) -> None:
        """Indexes the tokens added since the last call. The list only grows."""
        first = max(0, self._indexed - self._shortest + 1)
        known = tokens[first:-1]
        grams = zip(*(known[i:] for i in range(self._shortest)), strict=False)
        for place, gram in enumerate(grams, first + self._shortest):
            self._places.setdefault(gram, []).append(place)
        self._copying.follow(tokens)
        self._indexed = max(self._indexed, len(tokens) - 1)

    def lookup(self, tokens: list[int], limit: int) -> Guess:
        """The tokens after the longest earlier occurrence of the last tokens; among equals, the one where a copy
        resumes."""
        place, length = self._best(tokens)
        if length >= TRUSTED:
            self._copying.settle(tokens, place, length)
        elif length == 0 and self._shortest == 1:  # otherwise a one-token match is too short
            place = self._copying.resumption or 0
        if limit < 1 or place == 0:
            return NOTHING
        return Guess(self._copying.changed(_repeat(tokens, place, limit), limit), max(1, length))

    def _best(self, tokens: list[int]) -> tuple[int, int]:
        """(place, length) of the best match; zeros if there is none."""
        places = self._places.get(tuple(tokens[-self._shortest :]))
        if not places:
            return 0, 0
        distance = self._copying.distance
        place = max(self._near(places), key=lambda place: (self._matched(tokens, place), -distance(place), place))
        return place, self._matched(tokens, place)

    def _near(self, places: list[int]) -> list[int]:
        """The places to compare: the latest ones and those around where a copy may resume."""
        middle = bisect_left(places, self._copying.hint)
        return places[-CANDIDATES:] + places[max(0, middle - AROUND) : middle + AROUND]

    def chains(self, tokens: list[int], limit: int, width: int) -> list[list[int]]:
        """The tokens after the `width` longest matches with different continuations."""
        places = self._places.get(tuple(tokens[-self._shortest :]), [])[-CANDIDATES:]
        if limit < 1:
            return []
        ranked = sorted(reversed(places), key=lambda place: -self._matched(tokens, place))
        found = dict.fromkeys(tuple(_repeat(tokens, place, limit)) for place in ranked)
        return [list(chain) for chain in found][:width]

    def _matched(self, tokens: list[int], place: int) -> int:
        """The number of tokens before `place` that equal the end of the text."""
        length, most = self._shortest, min(self._longest, place)
        while length < most and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        return length


def _repeat(tokens: list[int], place: int, count: int) -> list[int]:
    """`count` tokens from `place` on; past its end the text continues as if periodic."""
    copied = tokens[place : place + count]
    period = len(tokens) - place
    return copied if len(copied) == count else [tokens[place + i % period] for i in range(count)]


class NgramDrafter:
    name = "ngram"
    runs_model = False

    def __init__(self, shortest: int = 2, longest: int = 16, margin: int | None = None):
        """margin: tokens a draft may be longer than its match; None: no such limit."""
        self._margin = margin
        self._indexes: States[NgramIndex] = States(lambda _: NgramIndex(shortest, longest))

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        guesses = [self._index(seq).lookup(seq.token_ids, limit) for seq, limit in zip(sequences, limits, strict=True)]
        if self._margin is None:
            return guesses
        return [guess._replace(tokens=guess.tokens[: guess.confidence + self._margin]) for guess in guesses]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        pairs = zip(sequences, limits, strict=True)
        return [self._index(seq).chains(seq.token_ids, limit, width) for seq, limit in pairs]

    def _index(self, seq: Sequence) -> NgramIndex:
        index = self._indexes[seq]
        index.extend(seq.token_ids)
        return index
