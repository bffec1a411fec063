"""A request's answer does not depend on its neighbours: same tokens, same bits of every logprob, on a real model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from octavo.assembly.engine import Assembly, assemble, engine_config
from octavo.sampling_params import SamplingParams
from octavo.types import Request, SequenceDelta
from tests.golden import oracle
from tests.models import model_path

PROMPTS, TOKENS = 100, 20
Answer = list[tuple[int, float]]  # (token, logprob)

# What may differ between two runs of the same requests. preempts: the pool is so small that sequences must give way.
SETTINGS: dict[str, dict[str, Any]] = {
    "batch": {},
    "one thread": {"threads": 1, "max_num_seqs": 5},
    "small chunks": {"max_num_batched_tokens": 23, "max_num_seqs": 11},
    "no prefix cache": {"enable_prefix_caching": False, "max_num_seqs": 16},
    "preemption": {"num_kv_blocks": 18, "max_num_seqs": 16, "max_num_batched_tokens": 64},
    "larger blocks": {"block_size": 32, "max_num_seqs": 7},
    "contiguous cache": {"kv_cache": "contiguous", "max_num_seqs": 4},
    "static batches": {"scheduler": "static", "max_num_seqs": 3},
}


def make(**settings: Any) -> Assembly:
    defaults: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 16, "threads": 2}
    return assemble(model_path("smollm2-135m"), engine_config(**{**defaults, **settings}))


@pytest.fixture(scope="module")
def requests() -> list[tuple[list[int], SamplingParams]]:
    """Slices of a text; every third one starts with the same 40 tokens; half of them are sampled."""
    with closing(make()) as parts:
        text = (oracle.DATA / "perplexity.txt").read_text(encoding="utf-8")
        ids = parts.tokenizer.encode(text, add_special=False)
    rng = random.Random(7)
    out = []
    for i in range(PROMPTS):
        start, length = rng.randrange(len(ids) - 80), rng.randint(1, 40)
        prompt = (ids[:40] if i % 3 == 0 else []) + ids[start : start + length]
        params = SamplingParams(
            temperature=float(i % 2), top_p=0.9, seed=i, max_tokens=TOKENS, logprobs=0, ignore_eos=True
        )
        out.append((prompt, params))
    return out


def run(
    parts: Assembly, requests: list[tuple[list[int], SamplingParams]], arrivals: random.Random | None
) -> list[Answer]:
    """Returns all answers. arrivals: how many requests are added before each step (None: each runs alone)."""
    answers: list[Answer] = [[] for _ in requests]
    waiting = list(range(len(requests)))
    while waiting or parts.engine.has_work:
        count = int(not parts.engine.has_work) if arrivals is None else arrivals.choice((0, 0, 1, 2, 5))
        for i in waiting[:count]:
            prompt, params = requests[i]
            parts.engine.add(Request(str(i), list(prompt), params, seed=params.seed or 0))
        del waiting[:count]
        for delta in parts.engine.step():
            take(answers, delta)
        parts.engine.cache.check_integrity()
    return answers


def take(answers: list[Answer], delta: SequenceDelta) -> None:
    for entry in delta.logprobs or []:
        answers[int(delta.request_id)].append((entry.token_id, entry.logprob))


@pytest.fixture(scope="module")
def alone(requests: list[tuple[list[int], SamplingParams]]) -> Iterator[list[Answer]]:
    with closing(make(enable_prefix_caching=False)) as parts:
        yield run(parts, requests, None)


@pytest.mark.parametrize("name", SETTINGS)
def test_same_bits(name: str, requests: list[tuple[list[int], SamplingParams]], alone: list[Answer]) -> None:
    with closing(make(**SETTINGS[name])) as parts:
        answers = run(parts, requests, random.Random(name))
        assert all(len(answer) == TOKENS for answer in alone)
        differing = [i for i, (a, b) in enumerate(zip(answers, alone, strict=True)) if a != b]
        assert not differing, f"{len(differing)} of {PROMPTS} answers differ"
        stats = parts.engine.stats
        if name == "preemption":
            assert stats.preemptions > 0
        if name == "batch":
            assert stats.prefix_hits > 0
