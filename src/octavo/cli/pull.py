"""`octavo pull`: downloads a model into the cache folder."""

from __future__ import annotations

import time
from typing import Annotated

import typer


def pull(source: Annotated[str, typer.Argument(help="An alias (see `octavo models`) or hf:org/repo[:file].")]) -> None:
    """Download a model into the cache folder, check it, and print its path.

    After an interruption the same command continues with the parts that are missing.
    """
    from octavo.bar import bar
    from octavo.weights import sources

    with bar() as drawn:
        begun: list[tuple[int, float]] = []  # bytes that were there at the first report, and its time

        def progress(done: int, total: int, label: str) -> None:
            begun.append((done, time.monotonic())) if not begun else None
            drawn.draw(f"{source}, {label}", done, total, *facts(done, total, *begun[0]))

        path = sources.pull(source, progress)
    typer.echo(str(path))


def facts(done: int, total: int, before: int, start: float) -> list[str]:
    """Returns the size, the speed, and the time left, as far as they are known."""
    rate = (done - before) / max(time.monotonic() - start, 1e-9)
    found = [f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"]
    return found + ([f"{rate / 1e6:.1f} MB/s", f"{(total - done) / rate:.0f} s left"] if rate > 0 else [])
