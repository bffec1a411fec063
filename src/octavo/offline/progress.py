"""A progress bar for batch generation on standard error, shown only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octavo.bar import bar
from octavo.errors import RequestError
from octavo.outputs import OutputDelta

DeltaListener = Callable[[list[OutputDelta]], None]


@contextmanager
def progress(answers: int, enabled: bool, doing: str = "generating") -> Iterator[DeltaListener | None]:
    """Yields a function to call with each step's deltas; None if no bar is shown.

    The bar shows finished answers out of `answers`, and tokens per second where there are tokens.
    enabled: a user's `use_tqdm`. Raises RequestError if it is no bool.
    """
    _check(enabled)
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
            figures = (f"{rate:.0f} tokens/s", f"{tokens} tokens") if tokens else ()
            drawn.draw(doing, done, answers, f"{done} of {answers}", *figures)

        yield watch


@contextmanager
def steps(most: int, enabled: bool, doing: str) -> Iterator[Callable[[], None]]:
    """Yields a function to call at each of up to `most` steps. enabled: see `progress`."""
    _check(enabled)
    with bar(keep=True) as drawn:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1
            if enabled and drawn.visible:
                drawn.draw(doing, count, most, f"{count} of {most} tokens")

        yield step


def _check(enabled: bool) -> None:
    if not isinstance(enabled, bool):
        raise RequestError(f"use_tqdm must be True or False; got {enabled!r:.60}", "use_tqdm")
