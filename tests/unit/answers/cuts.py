"""Splits text as streams may."""

from __future__ import annotations

import random
from collections.abc import Iterator


def splits(text: str, samples: int = 8) -> Iterator[list[str]]:
    """Yields ways to split a text: whole, by character, at every place, and at random places."""
    yield [text]
    yield list(text)
    for cut in range(1, len(text)):
        yield [text[:cut], text[cut:]]
    rng = random.Random(0)
    for _ in range(samples):
        cuts = sorted(rng.sample(range(len(text) + 1), min(5, len(text))))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
