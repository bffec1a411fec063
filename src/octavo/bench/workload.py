"""The workload that engines are compared on: random token ids, greedy, no end-of-sequence stop.

Every engine gets the same prompts: `octavo bench` and `octavo compare` both take them from here. A row is one batch.
Prefill speed is the number of prompt tokens over the time until each sequence has one token. Decode speed is the
number of later tokens over their time. Each speed is the best of `repeat` runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Times of one run of all prompts together."""

    first: float  # seconds until each sequence had a token
    later: float  # seconds from then on
    tokens: int  # generated in `later`


Generate = Callable[[list[list[int]], int], Timing]  # (prompts, tokens to generate for each)

LONG_PROMPT = 512  # tokens of the last row's only prompt
LOW_ID, HIGH_ID = 1000, 20000  # range of ids to draw from: ordinary words in every vocabulary


@dataclass(frozen=True)
class Workload:
    batches: tuple[int, ...] = (1, 4, 16)
    prompt_tokens: int = 128
    gen_tokens: int = 64
    repeat: int = 2
    vocab_size: int = HIGH_ID + 1

    def rows(self) -> list[tuple[int, int]]:
        """(batch, prompt tokens) of each row."""
        return [*((batch, self.prompt_tokens) for batch in self.batches), (1, LONG_PROMPT)]


def prompts(batch: int, length: int, seed: int | str = 0, vocab_size: int = HIGH_ID + 1) -> list[list[int]]:
    """Returns [batch][length] random ids, the same for every engine. A small vocabulary narrows the range of ids."""
    rng = random.Random(seed)
    high = min(HIGH_ID, vocab_size - 1)
    low = min(LOW_ID, high)
    return [[rng.randint(low, high) for _ in range(length)] for _ in range(batch)]


def measure(workload: Workload, generate: Generate) -> Iterator[dict[str, Any]]:
    """Warms up, then yields one row per batch as soon as it is measured."""
    generate(prompts(1, 16, vocab_size=workload.vocab_size), 4)
    for batch, length in workload.rows():
        yield measure_row(workload, generate, batch, length)


def measure_row(workload: Workload, generate: Generate, batch: int, length: int) -> dict[str, Any]:
    runs = []
    for attempt in range(workload.repeat):
        ids = prompts(batch, length, seed_of(batch, length, attempt), workload.vocab_size)
        runs.append(generate(ids, workload.gen_tokens + 1))
    return {
        "batch": batch,
        "prompt_tokens": length,
        "gen_tokens": workload.gen_tokens,
        "prefill_tok_s": round(batch * length / min(run.first for run in runs), 1),
        "decode_tok_s": round(max(run.tokens / run.later for run in runs), 1),
    }


def seed_of(*place: int) -> str:
    """Seed for the prompts of one run. Each run has another seed, so that a prefix cache cannot help."""
    return " ".join(map(str, place))
