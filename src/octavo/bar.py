"""A progress bar on a terminal: one line, redrawn in place, and always shorter than the terminal is wide.

A line that reaches the edge would wrap, and the next drawing would leave its first half behind. Importing rich for this
would take longer than loading a small model's first layers.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LONGEST, SHORTEST = 30, 8  # columns of the bar itself
PERIOD = 0.1  # least seconds between two drawings
USUAL_WIDTH = 80  # of a terminal that does not tell its size


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of the terminal behind a stream; None for a pipe or a file, whose lines may have any length.

    The environment variable COLUMNS comes first, as in other programs.
    """
    if not stream.isatty():
        return None
    if (given := os.environ.get("COLUMNS", "")).isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except OSError:
        return USUAL_WIDTH


def cells(text: str) -> int:
    """Returns the columns that a text takes on a terminal. East Asian wide characters take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def line(width: int, label: str, share: float, facts: tuple[str, ...] = ()) -> str:
    """Returns `label ####....  45%  fact, fact` for a terminal of `width` columns.

    Facts are left out from the last one on until there is room for a bar, then the bar itself.
    """
    for count in range(len(facts), -1, -1):
        rest = f" {share:4.0%}" + "".join(f"{', ' if i else '  '}{fact}" for i, fact in enumerate(facts[:count]))
        room = min(LONGEST, width - 2 - cells(label) - cells(rest))
        if room >= SHORTEST:
            return f"{label} {'#' * round(share * room):.<{room}}{rest}"
    text = f"{label} {share:4.0%}"
    while cells(text) >= width:
        text = text[1:]
    return text


class Bar:
    """The line on standard error. Draws nothing unless that is a terminal."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._due = 0.0
        self._shown = 0  # columns of the last drawing
        self.visible = terminal_width(self._stream) is not None

    def draw(self, label: str, done: float, total: float, *facts: str) -> None:
        """Shows `done` of `total`, at most ten times a second, and always once all is done."""
        width, now = terminal_width(self._stream), time.monotonic()
        if width is None or (now < self._due and done < total):
            return
        self._due = now + PERIOD
        text = line(width, label, min(done / total, 1.0) if total else 0.0, facts)
        # Spaces cover what was there before: not every terminal can erase a line.
        self._write(f"\r{text}{' ' * (self._shown - cells(text))}")
        self._shown = cells(text)

    def end(self, keep: bool) -> None:
        if self._shown:
            self._write("\n" if keep else f"\r{' ' * self._shown}\r")
        self._shown = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextmanager
def bar(keep: bool = False) -> Iterator[Bar]:
    """Yields a bar. At the end, however that comes, its last drawing stays (`keep`) or is cleared."""
    made = Bar()
    try:
        yield made
    finally:
        made.end(keep)
