"""/tokenize and /detokenize against SmolLM2."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from octavo.server.generation.job import LONG_TEXT, off_loop
from tests.server.harness import Server

TEXT = "Grüße, world: 3.14 ☃"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]


def tokenize(server: Server, **body: Any) -> dict[str, Any]:
    status, answer = server.post("/tokenize", body)
    assert status == 200, answer
    return answer


def detokenize(server: Server, tokens: list[int], **more: Any) -> str:
    status, answer = server.post("/detokenize", {"tokens": tokens, **more})
    assert status == 200, answer
    return answer["prompt"]


def test_a_text_comes_back(smollm: Server) -> None:
    found = tokenize(smollm, prompt=TEXT, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) > 5 and found["max_model_len"] > 0
    assert found["token_strs"][0].startswith("G")
    assert detokenize(smollm, found["tokens"]) == TEXT
    assert tokenize(smollm, prompt=TEXT)["token_strs"] is None
    assert tokenize(smollm, prompt="")["tokens"] == [] and detokenize(smollm, []) == ""


def test_messages_are_what_a_chat_reads(smollm: Server) -> None:
    found = tokenize(smollm, messages=MESSAGES)
    status, answer = smollm.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1})
    assert status == 200 and answer["usage"]["prompt_tokens"] == found["count"]
    written = detokenize(smollm, found["tokens"])
    assert written.endswith("<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n")
    assert "<|im_" not in detokenize(smollm, found["tokens"], skip_special_tokens=True)
    without = tokenize(smollm, messages=MESSAGES, add_generation_prompt=False)["tokens"]
    assert len(without) < found["count"] and found["tokens"][: len(without)] == without


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [1 << 20]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
    ],
)
def test_what_is_wrong_is_named(smollm: Server, path: str, body: dict[str, Any], field: str) -> None:
    status, answer = smollm.post(path, body)
    assert status == 400 and str(answer["error"]["param"]).startswith(field), answer


def test_long_texts_are_tokenised_off_the_event_loop() -> None:
    """Other requests are answered while a long text is tokenised."""

    async def threads() -> list[int]:
        return [await off_loop(threading.get_ident, size) for size in (LONG_TEXT - 1, LONG_TEXT)]

    here, elsewhere = asyncio.run(threads())
    assert here == threading.get_ident() != elsewhere


def test_a_text_of_maximal_size_is_tokenised(smollm: Server) -> None:
    assert tokenize(smollm, prompt="word " * 700_000)["count"] > 700_000
