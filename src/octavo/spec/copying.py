"""Where a text that is a copy with changes goes on in its source.

An edited file leaves its source at a change and goes on beside it: at most a little further than it left. And changes
repeat: what a name became once it will most likely become again.
"""

from __future__ import annotations

KEPT = 8  # changes remembered: the latest
LONGEST = 6  # tokens of a change worth remembering, on either side


class Copying:
    """Follows one growing list of tokens. place: in step, the source's next token; else where the copy left it."""

    def __init__(self) -> None:
        self._place: int | None = None  # None: no source is known yet
        self._left = 0  # where in the copy the change under way began; 0: in step
        self._end = 0  # tokens followed
        self._changes: dict[tuple[int, ...], tuple[int, ...]] = {}  # source's tokens -> the copy's

    def follow(self, tokens: list[int]) -> None:
        """Takes in what `tokens` has more than last time."""
        for end in range(self._end, len(tokens)):
            if self._place is None or self._left:
                break
            if self._place < end and tokens[self._place] == tokens[end]:
                self._place += 1
                self._unlearn(tokens, end + 1)
            else:
                self._left = end
        self._end = len(tokens)

    def settle(self, tokens: list[int], place: int, length: int) -> None:
        """The last `length` tokens are those before `place`: in step again. Learns the change that ends there."""
        start = len(tokens) - length
        if self._place is not None and self._left:
            old, new = tuple(tokens[self._place : place - length]), tuple(tokens[self._left : max(self._left, start)])
            if old and new and max(len(old), len(new)) <= LONGEST:
                self._changes[old] = new
                if len(self._changes) > KEPT:
                    del self._changes[next(iter(self._changes))]
        self._place, self._left = place, 0

    @property
    def hint(self) -> int:
        """The place that a search should look around; far beyond the end while no source is known."""
        return 1 << 40 if self._place is None else self._place

    def distance(self, place: int) -> int:
        """Of a place from those where the copy may go on: as many tokens behind where it left as it wrote since."""
        written = self._end - self._left + 1 if self._left else 0
        return max(self.hint - place, place - self.hint - written, 0)

    @property
    def resumption(self) -> int | None:
        """Where it goes on if the change under way replaced one token of the source."""
        return self._place + 1 if self._place is not None and self._left else None

    def changed(self, tokens: list[int], count: int) -> list[int]:
        """At most `count` tokens: these with the known changes made."""
        out: list[int] = []
        at = 0
        while at < len(tokens) and len(out) < count:
            for old, new in self._changes.items():
                if tuple(tokens[at : at + len(old)]) == old:
                    out += new
                    at += len(old)
                    break
            else:
                out.append(tokens[at])
                at += 1
        return out[:count]

    def _unlearn(self, tokens: list[int], end: int) -> None:
        """Forgets the changes of what was copied unchanged."""
        for old in [old for old in self._changes if tuple(tokens[end - len(old) : end]) == old]:
            del self._changes[old]
