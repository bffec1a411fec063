"""Stop strings in a stream of text: found across pieces; what may be the beginning of one is held back."""

from __future__ import annotations


class StopStrings:
    """Feed text with `add`, which returns what may be shown; once `found` is set the rest is dropped.

    The text held back is always the longest end of what was seen that begins a stop string, so a match never starts in
    text that was let out.
    """

    __slots__ = ("_held", "_include", "_stops", "found")

    def __init__(self, stops: tuple[str, ...], include: bool = False):
        self.found: str | None = None
        self._stops = stops
        self._include = include  # let the stop string itself out too
        self._held = ""

    def add(self, text: str) -> str:
        """The text that is now certain, up to the first stop string if one is complete."""
        if not self._stops:
            return text
        seen = self._held + text
        matches = [(start, stop) for stop in self._stops if (start := seen.find(stop)) >= 0]
        if matches:
            # The one that is complete first, as if the text came character by character.
            start, self.found = min(matches, key=lambda match: (match[0] + len(match[1]), match[0]))
            self._held = ""
            return seen[: start + len(self.found) * self._include]
        keep = max((_overlap(seen, stop) for stop in self._stops), default=0)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def flush(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that ends `text`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
