"""Whole runs on each instruction set that this machine has: the same tokens and the same bits of every logprob.

`scripts/test-asan` runs this file against a build with sanitizers: so it goes through as much native code as it can in
little time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from octavo import _native
from octavo.assembly.engine import assemble, engine_config
from octavo.sampling_params import SamplingParams
from octavo.types import Request
from tests.models import model_path
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf

Answers = dict[str, list[tuple[int, float]]]  # by request: (token, logprob)

PARAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logit_bias": {5: 2.0}},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 1},
    {"temperature": 1.2, "typical_p": 0.8, "presence_penalty": 0.4, "seed": 2},
    {"temperature": 0.7, "min_p": 0.05, "allowed_token_ids": tuple(range(40)), "min_tokens": 3, "seed": 3},
]


def requests(count: int, tokens: int) -> Iterator[Request]:
    """Prompts that share their first 40 tokens, two sequences for every other one; the text repeats itself."""
    for i in range(count):
        prompt = [1 + k % 7 for k in range(40)] + [50 + (k * (i + 1)) % 9 for k in range(5 * i + 1)]
        sampling = SamplingParams(
            n=1 + i % 2, max_tokens=tokens, logprobs=3, ignore_eos=True, **PARAMS[i % len(PARAMS)]
        )
        yield Request(str(i), prompt, sampling, seed=i)


def run(path: Path, isa: str, asked: list[Request], **settings: Any) -> Answers:
    defaults = {"max_model_len": 256, "max_num_batched_tokens": 48, "max_num_seqs": 6, "threads": 2}
    answers: Answers = {}
    with closing(assemble(path, engine_config(isa=isa, **{**defaults, **settings}))) as parts:
        for request in asked:
            parts.engine.add(request)
        while parts.engine.has_work:
            for delta in parts.engine.step():
                key = f"{delta.request_id}.{delta.index}"
                answers.setdefault(key, []).extend((e.token_id, e.logprob) for e in delta.logprobs or [])
    return answers


def same_everywhere(path: Path, count: int = 5, tokens: int = 12, **settings: Any) -> None:
    answers = [run(path, isa, list(requests(count, tokens)), **settings) for isa in _native.isas()]
    assert len(answers[0]) == count + count // 2
    assert all(len(entries) == tokens for entries in answers[0].values())
    assert all(other == answers[0] for other in answers[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    same_everywhere(write_tiny_gguf(tmp_path / "m.gguf", Tiny(family)))


@pytest.mark.parametrize("type", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_every_encoding(tmp_path: Path, type: str) -> None:
    wide = Tiny(hidden=256, ffn=256, heads=4, head_dim=64, vocab=317, type=type)
    same_everywhere(write_tiny_gguf(tmp_path / "m.gguf", wide), count=3)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8", "k8v4"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])  # keys with a bias have an offset in quantised caches
def test_every_cache_type(tmp_path: Path, family: str, dtype: str) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(family, type="Q8_0", heads=6, kv_heads=2, head_dim=32))
    same_everywhere(path, kv_cache_dtype=dtype, num_kv_blocks=24)  # too few for all: some are preempted


@pytest.mark.parametrize("method", ["tree", "early_exit", "draft_model"])
def test_drafts(tmp_path: Path, method: str) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(type="Q4_1"))
    options: dict[str, Any] = {"early_exit": {"layers": 1}, "draft_model": {"model": str(path)}}.get(method, {})
    drafting = {"method": method, "draft_min_probability": 0.0, **options}
    same_everywhere(path, tokens=24, speculative_config=drafting)


def test_a_real_model() -> None:
    same_everywhere(model_path("smollm2-135m"), count=3, tokens=4)
