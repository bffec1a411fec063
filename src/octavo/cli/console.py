"""Output of the commands: errors, notes and the loading bar on standard error, tables on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from octavo.bar import bar, terminal_width
from octavo.cli import layout
from octavo.errors import ConfigError


def complain(message: str) -> None:
    """Prints an error as one line, also if the message has several."""
    print("octavo:", " ".join(message.split()), file=sys.stderr)


def note(message: str) -> None:
    """Prints a message for people. On a terminal its lines break between words."""
    _print(message, sys.stderr)


def show_text(message: str) -> None:
    """Prints a text on standard output. On a terminal its lines break between words."""
    _print(message, sys.stdout)


def _print(message: str, stream: TextIO) -> None:
    width = terminal_width(stream)
    room = None if width is None else width - 1
    lines = [part for line in message.splitlines() for part in layout.wrapped(line, room)]
    print(*lines, sep="\n", file=stream, flush=True)


def note_facts(parts: Sequence[str]) -> None:
    """Prints "part | part", in as few lines as hold each part whole."""
    note(layout.packed(parts, terminal_width(sys.stderr)))


@contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Yields a function to call with (bytes done, bytes in all); None without a terminal."""
    with bar() as loading:
        yield (lambda done, total: loading.draw("loading", done, total)) if loading.visible else None


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<") -> None:
    """Prints a table that fits the terminal; see `layout.table`."""
    print(layout.table(titles, rows, align, terminal_width(sys.stdout)))


def show_definitions(pairs: Sequence[tuple[str, str]]) -> None:
    print(layout.definitions(pairs, terminal_width(sys.stdout)))


def show_facts(head: str, facts: Sequence[str]) -> None:
    """Prints "head fact, fact", in as few lines as hold each fact whole."""
    print(layout.packed([f"{head} {facts[0]}", *facts[1:]], terminal_width(sys.stdout), ", "))


def process_age() -> float:
    """Returns seconds since this process started: the user's wait, with interpreter start and imports."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return uptime - int(fields[19]) / 100  # field 22, in ticks of 10 ms
    except (OSError, AttributeError):  # not Linux: earlier imports are not counted
        return time.perf_counter() - STARTED


STARTED = time.perf_counter()


def megabytes(size: float) -> str:
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def amount(size: int) -> str:
    """Formats bytes with one decimal in the largest unit that gives a number of at least 1: 98.4 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def writable(path: Path | None) -> None:
    """Raises ConfigError if a file cannot be written there. Call it before long work."""
    if path is not None and (
        path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    ):
        raise ConfigError(f"cannot write {path}: its folder must exist and be writable")
