"""A request's answer through `Engine`, bitwise: alone, batched, chunked, after a prefix hit, preempted, speculated.

Alone every kernel is launched from Python; the rest runs one step ahead, as graphs, on a device that is late."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.assembly.engine import Assembly, assemble, engine_config
from octavo.sampling_params import SamplingParams
from octavo.types import Request
from tests.cuda.late import Late
from tests.tiny import Tiny, write_tiny_gguf

TOKENS = 4
TINY = Tiny("gemma3", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48)
Answer = list[tuple[int, float]]  # (token, logprob)
SETTINGS: dict[str, dict[str, Any]] = {
    "batch": {},
    "chunks": {"max_num_batched_tokens": 7},
    "preemption": {"block_size": 4, "num_kv_blocks": 11, "enable_prefix_caching": False},
    "speculation": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
    "tree": {"speculative_config": {"method": "tree", "tree_tokens": 4}},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf", TINY)


def make(path: Path, **settings: Any) -> Assembly:
    defaults: dict[str, Any] = {"backend": "cuda", "max_model_len": 64, "max_num_seqs": 4, "num_kv_blocks": 32}
    return assemble(path, engine_config(**{**defaults, **settings}))


def prompts() -> list[tuple[list[int], SamplingParams]]:
    """Two share their first block, the second is sampled; the third repeats itself, and so does its answer."""
    rng = np.random.default_rng(3)
    first, other = rng.integers(0, 300, (2, 18)).tolist()
    common: dict[str, Any] = {"seed": 1, "max_tokens": TOKENS, "logprobs": 0, "ignore_eos": True}
    greedy, sampled = SamplingParams(temperature=0, **common), SamplingParams(temperature=1, **common)
    few = SamplingParams(temperature=0, allowed_token_ids=tuple(set(first[:3])), **common)
    return [(first, greedy), (first[:16] + other[:4], sampled), (first[:3] * 5, few)]


def run(parts: Assembly, together: bool) -> list[Answer]:
    """All answers. Together: one more request before each step, from the second on; else one after the other."""
    answers: list[Answer] = [[] for _ in prompts()]
    waiting = list(enumerate(prompts()))
    while waiting or parts.engine.has_work:
        if waiting and (together or not parts.engine.has_work):
            i, (prompt, params) = waiting.pop(0)
            parts.engine.add(Request(str(i), list(prompt), params, seed=params.seed or 0))
        for delta in parts.engine.step():
            for entry in delta.logprobs or []:
                answers[int(delta.request_id)].append((entry.token_id, entry.logprob))
        parts.engine.cache.check_integrity()
    return answers


@pytest.fixture(scope="module")
def alone(path: Path) -> list[Answer]:
    with closing(make(path, enable_prefix_caching=False)) as parts:
        return run(parts, together=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_same_bits(name: str, path: Path, alone: list[Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Late()
    monkeypatch.setattr("octavo.backends.cuda.backend.Stream", lambda device: stream)
    with closing(make(path, **SETTINGS[name])) as parts:
        assert run(parts, together=True) == alone
        stats = parts.engine.stats
        assert stream.replays > 0
        assert all(len(answer) == TOKENS for answer in alone)
        if name == "preemption":
            assert stats.preemptions > 0
        if name == "batch":
            assert stats.prefix_hits > 0
        if name in ("speculation", "tree"):
            assert stats.draft_tokens > 0
