"""Finds where an edited copy continues in its source.

After an edit, drafting resumes in the source just after the edited span. Edits repeat: a renamed identifier is most
likely renamed again.
"""

from __future__ import annotations

KEPT = 8  # latest changes that are remembered
LONGEST = 6  # longest remembered change, in tokens on either side


class Copying:
    """Follows one growing list of tokens. place: the source's next token while copying, else where the copy left it."""

    def __init__(self) -> None:
        self._place: int | None = None  # None: no source is known yet
        self._left = 0  # where in the copy the current change began; 0: copying
        self._end = 0  # tokens followed
        self._changes: dict[tuple[int, ...], tuple[int, ...]] = {}  # source's tokens -> the copy's

    def follow(self, tokens: list[int]) -> None:
        """Processes the tokens added since the last call."""
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
        """Resumes copying: the last `length` tokens equal those before `place`. Learns the change that ends there."""
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
        """The place to search around; far beyond the end while no source is known."""
        return 1 << 40 if self._place is None else self._place

    def distance(self, place: int) -> int:
        """Distance of a place from where the copy may resume: up to as far past the exit as it has written since."""
        written = self._end - self._left + 1 if self._left else 0
        return max(self.hint - place, place - self.hint - written, 0)

    @property
    def resumption(self) -> int | None:
        """The resuming place if the current change replaced one token of the source."""
        return self._place + 1 if self._place is not None and self._left else None

    def changed(self, tokens: list[int], count: int) -> list[int]:
        """These tokens with the known changes applied, at most `count`."""
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
        """Forgets changes of text that was since copied unchanged."""
        for old in [old for old in self._changes if tuple(tokens[end - len(old) : end]) == old]:
            del self._changes[old]
