"""truncate_prompt_tokens: every route keeps the last tokens of a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.server.harness import Server

TEXT = "the rate of ions in a train at noon"
LONG = "word " * 4000  # more than the context of 512 tokens
MESSAGES = [{"role": "user", "content": LONG}]


def tokens(server: Server, text: str) -> list[int]:
    found: list[int] = server.post("/tokenize", {"prompt": text})[1]["tokens"]
    return found


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    status, answer = server.post(path, body)
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


def test_completions_continue_the_last_tokens(tiny: Server) -> None:
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "logprobs": 1, "echo": True}
    cut = post(tiny, "/v1/completions", prompt=TEXT, truncate_prompt_tokens=3, **body)
    short = post(tiny, "/v1/completions", prompt=tokens(tiny, TEXT)[-3:], **body)
    assert cut["choices"] == short["choices"] and cut["usage"]["prompt_tokens"] == 3
    whole = post(tiny, "/v1/completions", prompt=TEXT, truncate_prompt_tokens=500, **body)
    assert whole["choices"] == post(tiny, "/v1/completions", prompt=TEXT, **body)["choices"] != short["choices"]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", {"prompt": LONG}), ("/v1/chat/completions", {"messages": MESSAGES})]
)
def test_minus_one_keeps_what_fits(tiny: Server, path: str, body: dict[str, Any]) -> None:
    made = post(tiny, path, max_tokens=12, ignore_eos=True, truncate_prompt_tokens=-1, **body)
    assert (made["usage"]["prompt_tokens"], made["usage"]["completion_tokens"]) == (500, 12)


def test_embeddings_and_scores_are_of_the_last_tokens(tiny: Server) -> None:
    def vector(**body: Any) -> Any:
        return np.array(post(tiny, "/v1/embeddings", **body)["data"][0]["embedding"])

    cut = vector(input=TEXT, truncate_prompt_tokens=3)
    np.testing.assert_allclose(cut, vector(input=[tokens(tiny, TEXT)[-3:]]), atol=1e-6)
    assert post(tiny, "/v1/embeddings", input=LONG, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 512
    expected = pytest.approx(float(cut @ vector(input="noon", truncate_prompt_tokens=3)), abs=1e-6)
    scored = post(tiny, "/v1/score", text_1=TEXT, text_2="noon", truncate_prompt_tokens=3)
    assert scored["data"][0]["score"] == expected
    ranked = post(tiny, "/v1/rerank", query=TEXT, documents=["noon"], truncate_prompt_tokens=3)
    assert ranked["results"][0]["relevance_score"] == expected


@pytest.mark.parametrize("value", [0, -2, "3"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
    ],
)
def test_other_values_are_refused(tiny: Server, path: str, body: dict[str, Any], value: Any) -> None:
    status, answer = tiny.post(path, body | {"truncate_prompt_tokens": value})
    assert status == 400 and answer["error"]["param"] == "truncate_prompt_tokens", answer
