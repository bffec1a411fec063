"""Comparing a backend with the golden data (tests/data/golden, see its README), for every backend's golden tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octavo.backends.base import Backend
from octavo.config import CacheConfig
from octavo.sampling.rules import logprobs
from octavo.types import F32
from tests.batches import Row, make_batch

DATA = Path(__file__).parents[1] / "data" / "golden"
CHUNK = 512  # query tokens a step, as the engine's default
CACHE = CacheConfig(num_blocks=64, block_size=16, dtype="f32")  # room for one sequence of 1,024 tokens


def load_golden(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def sequence_logprobs(backend: Backend, token_ids: Sequence[int], chunk: int = CHUNK, first: int = 0) -> F32:
    """[T - first, V]: row i is log p(next token | token_ids[: first + i + 1]), prefilled into an empty cache in chunks.

    first: a multiple of `chunk`; the tokens before it are run, but not scored.
    """
    parts = []
    for start in range(0, len(token_ids), chunk):
        row = Row(token_ids[start : start + chunk], start=start, all_rows=start >= first)
        result = backend.run(make_batch([row], want_logits=True))
        assert result.logits is not None and result.finite.all()
        if start >= first:
            parts.append(logprobs(result.logits))
    return np.concatenate(parts)


def next_token_error(values: F32, prompt: dict[str, Any]) -> float:
    """Largest difference from `next_top10`, at the last prompt token."""
    row = values[len(prompt["prompt_ids"]) - 1]
    errors: list[float] = [abs(float(row[token]) - expected) for token, expected in prompt["next_top10"]]
    return max(errors)


def prompt_error(values: F32, prompt: dict[str, Any]) -> float:
    """Largest difference from `prompt_logprobs`."""
    scored = zip(values, prompt["prompt_ids"][1:], prompt["prompt_logprobs"][1:], strict=False)
    errors: list[float] = [abs(float(row[token]) - expected) for row, token, expected in scored]
    return max(errors)


def greedy_misses(values: F32, prompt: dict[str, Any], margin: float) -> list[int]:
    """Greedy steps whose golden margin exceeds `margin` but where another token is the most likely.

    values: of prompt + golden output, so that each step is judged after the golden ones, whatever the backend prefers.
    """
    start = len(prompt["prompt_ids"]) - 1
    steps = enumerate(zip(prompt["greedy_ids"], prompt["greedy_margin"], strict=True))
    return [i for i, (token, gap) in steps if gap > margin and int(values[start + i].argmax()) != token]


def first_divergence(output: Sequence[int], prompt: dict[str, Any]) -> float:
    """The golden margin at the first step where a free greedy run differs; infinity if it never does."""
    steps = zip(output, prompt["greedy_ids"], prompt["greedy_margin"], strict=False)
    return next((gap for token, golden, gap in steps if token != golden), float("inf"))


def mean_nll(backend: Backend, token_ids: Sequence[int], window: int) -> tuple[float, int]:
    """(nats a token, tokens scored): each window starts from an empty cache and does not score its first token."""
    total, count = 0.0, 0
    for start in range(0, len(token_ids), window):
        ids = token_ids[start : start + window]
        values = sequence_logprobs(backend, ids)
        total -= float(values[np.arange(len(ids) - 1), ids[1:]].sum(dtype=np.float64))
        count += len(ids) - 1
    return total / count, count
