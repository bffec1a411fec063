"""A progress bar for batch generation on standard error, shown only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octavo.outputs import OutputDelta

DeltaListener = Callable[[list[OutputDelta]], None]


@contextmanager
def progress(answers: int, enabled: bool) -> Iterator[DeltaListener | None]:
    """Yields a function to call with each step's deltas; None if no bar is shown.

    The bar shows finished answers out of `answers`, and tokens per second.
    """
    if not (enabled and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console  # 50 ms that a script without a terminal need not spend
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    rate = TextColumn("{task.fields[tokens]} tokens, {task.fields[rate]:.0f}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), rate)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("generating", total=answers, tokens=0, rate=0.0)
        tokens = 0

        def watch(deltas: list[OutputDelta]) -> None:
            nonlocal tokens
            tokens += sum(len(delta.token_ids) for delta in deltas)
            finished = sum(delta.finish_reason is not None for delta in deltas)
            elapsed = bar.tasks[0].elapsed or 1.0
            bar.update(task, advance=finished, tokens=tokens, rate=tokens / max(elapsed, 1e-9))

        yield watch
