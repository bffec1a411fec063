"""One step ahead on the CUDA backend: each answer is the synchronous engine's, with stops, aborts and preemption.

The device is as late as it may be (`late.py`): nothing runs before somebody waits for it. So a step that is planned
and submitted meanwhile cannot have seen a result, and host memory that is written too early shows.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.ahead import AheadEngine, create
from octavo.backends.cuda.backend import CudaBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.models.registry import load_model
from octavo.sampling_params import SamplingParams
from octavo.types import Batch, Request
from tests.cuda.late import Late
from tests.tiny import Tiny, write_tiny_gguf
from tests.unit.control import Answer, Answers, collect, request

TINY = Tiny("qwen3", layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32)
BLOCK = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf", TINY)


class Counting(CudaBackend):
    """unknown: batches with a token that the host did not know when it submitted them."""

    unknown = 0

    def submit(self, batch: Batch) -> Any:
        self.unknown += bool((batch.token_ids < 0).any())
        return super().submit(batch)


def build(path: Path, ahead: bool, blocks: int, graphs: bool) -> tuple[Engine, Counting]:
    model = load_model(path)
    limits = {"max_model_len": 48, "max_num_seqs": 4, "max_num_batched_tokens": 12}
    config = EngineConfig(block_size=BLOCK, async_scheduling=ahead, **limits)
    cache, stream = CacheConfig(blocks, BLOCK, "f32"), Late() if ahead else None
    backend = Counting(
        model, cache, device="cpu", max_tokens=12, max_seqs=4, max_context=48, graphs=graphs, stream=stream
    )
    return create(backend, config, cache, model.vocab_size), backend


def crowd(rng: random.Random) -> list[Request]:
    made = []
    for index in range(5):
        params: dict[str, Any] = {
            "temperature": rng.choice([0, 0.8]),
            "top_p": rng.choice([1, 0.9]),
            "max_tokens": rng.choice([1, 4, 9]),
            "n": rng.choice([1, 1, 1, 2]),
            "logprobs": rng.choice([None, None, 1]),
            "stop_token_ids": rng.choice([(), tuple(range(0, 300, 4))]),
            "presence_penalty": rng.choice([0, 0, 0, 1]),
            "min_tokens": rng.choice([0, 1]),
        }
        tokens = [rng.randrange(300) for _ in range(rng.randint(1, 15))]
        made.append(request(f"r{index}", tokens, SamplingParams(**params), seed=index))
    return made


def long(rng: random.Random) -> list[Request]:
    """Three that need more blocks together than a small pool has."""
    params = SamplingParams(temperature=0.8, max_tokens=12, logprobs=0)
    return [request(f"r{i}", [rng.randrange(300) for _ in range(9)], params, seed=i) for i in range(3)]


def live(engine: Engine, seed: int, make: Callable[[random.Random], list[Request]]) -> Answers:
    """Requests arrive, and some are aborted once they have a number of tokens."""
    rng, answers = random.Random(seed), defaultdict(Answer)
    waiting = make(rng)
    patience = {item.request_id: rng.choice([2, 99, 99]) if make is crowd else 99 for item in waiting}
    while waiting or engine.has_work:
        if waiting:
            engine.add(waiting.pop(0))
        collect(answers, engine.step())
        engine.cache.check_integrity()
        for name, most in patience.items():
            if sum(len(answers[name, index].token_ids) for index in range(2)) >= most:
                collect(answers, engine.abort(name))
    assert engine.cache.usage == 0
    return answers


@pytest.mark.parametrize(
    ("make", "seed", "blocks", "graphs"), [(crowd, 0, 40, True), (long, 0, 11, True), (crowd, 5, 11, False)]
)
def test_answers_are_the_synchronous_engines(path: Path, make: Any, seed: int, blocks: int, graphs: bool) -> None:
    (plain, _), (ahead, backend) = build(path, False, blocks, False), build(path, True, blocks, graphs)
    assert type(plain) is Engine and type(ahead) is AheadEngine
    expected, found = live(plain, seed, make), live(ahead, seed, make)
    assert backend.unknown > 5
    assert (ahead.stats.preemptions > 0) == (make is long)
    for key, answer in expected.items():
        mine = found[key]
        if "abort" not in (answer.finish_reason, mine.finish_reason):
            assert mine == answer, key
        length = min(len(mine.token_ids), len(answer.token_ids))
        assert mine.token_ids[:length] == answer.token_ids[:length], key
