"""The CPU backend against the golden data: int8 activations and a bf16 cache must not show in its output."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import _native
from octavo.backends.cpu.backend import CpuBackend
from octavo.config import CacheConfig
from octavo.models.registry import build_model
from octavo.tokenizer.tokenizer import Tokenizer
from octavo.weights.gguf import open_gguf
from tests.golden import oracle
from tests.models import model_path

MARGIN = 0.3  # nats: from the first step closer than this on, either way is right
PERPLEXITY = 0.01  # relative

MODELS = ["smollm2-135m", "gemma3-270m", pytest.param("qwen2.5-coder-1.5b", marks=pytest.mark.slow)]


class Loaded:
    def __init__(self, name: str, isa: str, kv: str = "bf16"):
        self.checkpoint = open_gguf(model_path(name))
        self.golden = oracle.load_golden(name)
        cache = CacheConfig(num_blocks=64, block_size=16, dtype=kv)
        self.backend = CpuBackend(build_model(self.checkpoint), cache, isa=isa, max_context=1024)

    def clear_steps(self, prompt: dict[str, Any]) -> int:
        """Steps before the first that is closer than MARGIN."""
        close = [i for i, gap in enumerate(prompt["greedy_margin"]) if gap < MARGIN]
        return close[0] if close else len(prompt["greedy_margin"])

    def check_greedy(self, prompt: dict[str, Any]) -> None:
        steps = self.clear_steps(prompt)
        golden = prompt["greedy_ids"][:steps]
        values = oracle.sequence_logprobs(self.backend, prompt["prompt_ids"] + golden)
        assert values[len(prompt["prompt_ids"]) - 1 :].argmax(-1).tolist()[:steps] == golden


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[str, Loaded]]:
    model = Loaded(request.param, _native.isas()[0])
    yield request.param, model
    model.backend.close()


def test_greedy(loaded: tuple[str, Loaded]) -> None:
    name, model = loaded
    for prompt in exact_prompts(name, model):
        model.check_greedy(prompt)


def exact_prompts(name: str, model: Loaded) -> list[dict[str, Any]]:
    """Gemma's golden file was itself made with int8 activations. The exact one is the file beside this test."""
    exact = Path(__file__).with_name(f"{name}-f32.json")
    prompts: list[dict[str, Any]] = model.golden["prompts"]
    if exact.exists():
        answers = json.loads(exact.read_text(encoding="utf-8"))["prompts"]
        prompts = [{**prompt, **answer} for prompt, answer in zip(prompts, answers, strict=True)]
    return prompts


def test_perplexity(loaded: tuple[str, Loaded]) -> None:
    name, model = loaded
    nll, exact = gemma_nll(model) if name == "gemma3-270m" else open_text_nll(model)
    ratio = math.exp(nll - exact)
    print(f"{name}: perplexity {math.exp(nll):.4f}, {100 * (ratio - 1):+.2f} % against the exact one")
    assert abs(ratio - 1) < PERPLEXITY


def open_text_nll(model: Loaded) -> tuple[float, float]:
    """(nats a token, the exact value) over the windows of the golden file."""
    golden = model.golden["ppl_open"]
    text = (oracle.DATA / "perplexity.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_gguf(model.checkpoint.metadata).encode(text, add_special=False)
    nll, tokens = oracle.mean_nll(model.backend, ids[: golden["n_ids"]], golden["window"])
    assert tokens == golden["tokens"]
    return nll, golden["nll"]


def gemma_nll(model: Loaded) -> tuple[float, float]:
    """The same over 768 tokens, past the window. Their exact log-probabilities are in the file beside this test."""
    long = json.loads(Path(__file__).with_name("gemma3-270m-f32.json").read_text(encoding="utf-8"))["long"]
    values = oracle.sequence_logprobs(model.backend, long["ids"])
    mine = [float(row[token]) for row, token in zip(values, long["ids"][1:], strict=False)]
    exact = [value for value in long["logprobs"] if value is not None]
    assert len(mine) == len(exact)
    return -sum(mine) / len(mine), -sum(exact) / len(exact)


@pytest.mark.parametrize("isa", _native.isas()[1:])
def test_every_instruction_set(isa: str) -> None:
    model = Loaded("smollm2-135m", isa)
    model.check_greedy(model.golden["prompts"][0])


@pytest.mark.parametrize("kv", ["f32", "int8"])
def test_every_cache_type(kv: str) -> None:
    model = Loaded("smollm2-135m", _native.isas()[0], kv)
    for prompt in model.golden["prompts"][:4]:
        model.check_greedy(prompt)
