"""Output of the commands on standard error (errors, notes, the loading bar), and helpers for figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from octavo.errors import ConfigError

WIDTH = 30  # characters of the loading bar


def complain(message: str) -> None:
    """Prints an error as one line, also if the message has several."""
    print("octavo:", " ".join(message.split()), file=sys.stderr)


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Yields a function to call with (bytes done, bytes in all); None without a terminal.

    The bar does not use rich: its import takes longer than loading a small model's first layers.
    """
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        part = done / max(total, 1)
        print(f"\rloading {'#' * round(part * WIDTH):.<{WIDTH}} {part:4.0%}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def writable(path: Path | None) -> None:
    """Raises ConfigError if a file cannot be written there. Call it before long work."""
    if path is not None and (
        path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    ):
        raise ConfigError(f"cannot write {path}: its folder must exist and be writable")
