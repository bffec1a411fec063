"""Real models: the same ids and prompts as independent implementations."""

from __future__ import annotations

import time
from typing import Any

import pytest

from octavo import chat
from octavo.tokenizer import Tokenizer
from octavo.weights.gguf import open_gguf
from tests.golden.oracle import DATA, load_golden
from tests.models import model_path

MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-1.5b")
# Processor seconds from metadata to tokenizer. Measured on a Zen 3: 0.1, 1.4 and 0.4; the rest is for slower machines.
READY = {"smollm2-135m": 1.0, "gemma3-270m": 6.0, "qwen2.5-coder-1.5b": 2.5}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """(tokenizer, golden data)."""
    with open_gguf(model_path(request.param)) as file:
        start = time.thread_time()
        tokenizer = Tokenizer.from_gguf(file.metadata)
        assert time.thread_time() - start < READY[request.param]
    return tokenizer, load_golden(request.param)


def test_prompt_ids(model: tuple[Tokenizer, Any]) -> None:
    tokenizer, golden = model
    for prompt in golden["prompts"]:
        assert tokenizer.encode(prompt["text"]) == prompt["prompt_ids"], prompt["text"]


def test_output_text(model: tuple[Tokenizer, Any]) -> None:
    tokenizer, golden = model
    for prompt in golden["prompts"]:
        assert tokenizer.decode(prompt["greedy_ids"], skip_special=False) == prompt["greedy_text"]


def test_text_of_the_perplexity_measurement(model: tuple[Tokenizer, Any]) -> None:
    tokenizer, golden = model
    text = (DATA / "perplexity.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text
    if "ppl_open" in golden:
        head = golden["ppl_open"]["ids_head"]
        assert ids[: len(head)] == head


def test_chat_prompts(model: tuple[Tokenizer, Any]) -> None:
    """The models' own templates, which add the default system prompt. Gemma's file, of a base model, has none."""
    tokenizer, golden = model
    assert (tokenizer.chat_template is None) == golden["model"].startswith("gemma")
    if tokenizer.chat_template is None:
        return
    for prompt in golden["prompts"]:
        question = prompt["text"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        text = chat.render(tokenizer.chat_template, [{"role": "user", "content": question}])
        assert text == prompt["text"]
        assert tokenizer.encode(text, add_special=False) == prompt["prompt_ids"]


def test_ends_and_specials(model: tuple[Tokenizer, Any]) -> None:
    tokenizer, golden = model
    texts = {tokenizer.token_text(i) for i in tokenizer.eos_ids}
    expected = {"<eos>", "<end_of_turn>"} if golden["model"].startswith("gemma") else {"<|im_end|>", "<|endoftext|>"}
    assert texts == expected
    assert set(tokenizer.eos_ids) <= tokenizer.special_ids
    spelled = tokenizer.encode("".join(texts), add_special=False, parse_special=False)
    assert not set(spelled) & tokenizer.special_ids
