"""kv_eviction of a request: prompts longer than the context, answers through the API, errors that name the field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.harness import Server

LONG = "word " * 700  # tokens of one byte each: more than the context of 512
MESSAGES = [{"role": "user", "content": LONG}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": LONG}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_stream_longer_than_the_context(tiny: Server, path: str, body: dict[str, Any]) -> None:
    body = body | {"max_tokens": 40, "ignore_eos": True, "temperature": 0}
    status, answer = tiny.post(path, body)
    assert status == 400 and "max_model_len" in answer["error"]["message"]
    status, answer = tiny.post(path, body | {"kv_eviction": "sink_recent(16, 64)"})
    assert status == 200, answer
    assert answer["usage"]["prompt_tokens"] > 512 and answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("policy", ["h2o", "sink_recent(5)", "snapkv(pool=2)"])
def test_what_is_no_policy_is_named(tiny: Server, path: str, body: dict[str, Any], policy: str) -> None:
    status, answer = tiny.post(path, body | {"kv_eviction": policy})
    assert status == 400 and answer["error"]["param"] == "kv_eviction"


def test_what_is_kept_must_fit(tiny: Server) -> None:
    status, answer = tiny.post("/v1/completions", {"prompt": "a", "kv_eviction": "sink_recent(16, 2048)"})
    assert status == 400 and "lower its window" in answer["error"]["message"]


def test_snapkv_through_the_api(tiny: Server) -> None:
    body = {"prompt": LONG[:400], "max_tokens": 10, "temperature": 0, "ignore_eos": True}
    status, answer = tiny.post("/v1/completions", body | {"kv_eviction": "snapkv(100)"})
    assert status == 200 and answer["usage"]["completion_tokens"] == 10
