"""A progress bar for batch generation on standard error, shown only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octavo.bar import bar
from octavo.outputs import OutputDelta

DeltaListener = Callable[[list[OutputDelta]], None]


@contextmanager
def progress(answers: int, enabled: bool) -> Iterator[DeltaListener | None]:
    """Yields a function to call with each step's deltas; None if no bar is shown.

    The bar shows finished answers out of `answers`, and tokens per second.
    """
    with bar(keep=True) as drawn:
        if not (enabled and drawn.visible):
            yield None
            return
        start, tokens, done = time.monotonic(), 0, 0

        def watch(deltas: list[OutputDelta]) -> None:
            nonlocal tokens, done
            tokens += sum(len(delta.token_ids) for delta in deltas)
            done += sum(delta.finish_reason is not None for delta in deltas)
            rate = tokens / max(time.monotonic() - start, 1e-9)
            drawn.draw("generating", done, answers, f"{done} of {answers}", f"{rate:.0f} tokens/s", f"{tokens} tokens")

        yield watch
