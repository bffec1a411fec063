"""Finds stop strings in a stream of text, also across its pieces. The possible start of one is held back."""

from __future__ import annotations


class StopStrings:
    """`add` takes text and returns the text to show. Once `found` is set, the rest is dropped.

    The longest suffix of the text that is a prefix of a stop string is held back. A match therefore never starts in
    text that was already returned.
    """

    __slots__ = ("_held", "_include", "_stops", "found")

    def __init__(self, stops: tuple[str, ...], include: bool = False):
        self.found: str | None = None
        self._stops = stops
        self._include = include  # return the stop string too
        self._held = ""

    def add(self, text: str) -> str:
        """Returns the text that is now certain, up to the first complete stop string."""
        if not self._stops:
            return text
        seen = self._held + text
        matches = [(start, stop) for stop in self._stops if (start := seen.find(stop)) >= 0]
        if matches:
            # Take the match that ends first, as if the text came one character at a time.
            start, self.found = min(matches, key=lambda match: (match[0] + len(match[1]), match[0]))
            self._held = ""
            return seen[: start + len(self.found) * self._include]
        keep = max((_overlap(seen, stop) for stop in self._stops), default=0)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def flush(self) -> str:
        """Returns the text held back. Call it at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest proper prefix of `stop` that ends `text`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
