"""/v1/completions: echo in a stream, and best_of."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.harness import Server
from tests.server.streams import events

PROMPTS = ["the rate of ions", "in short"]
BODY: dict[str, Any] = {"prompt": PROMPTS, "max_tokens": 12, "n": 2, "seed": 3, "logprobs": 2}


def choices(server: Server, **body: Any) -> list[dict[str, Any]]:
    status, answer = server.post("/v1/completions", BODY | body)
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["choices"]
    return found


@pytest.mark.parametrize("more", [{}, {"prompt_logprobs": 1}, {"logprobs": None}, {"max_tokens": 0}])
def test_a_stream_with_echo_joins_to_the_whole_answer(tiny: Server, more: dict[str, Any]) -> None:
    whole = choices(tiny, echo=True, **more)
    parts = [part for event in events(tiny, "/v1/completions", BODY | more | {"echo": True, "stream": True})
             for part in event["choices"]]  # fmt: skip
    assert [choice["text"].startswith(PROMPTS[i // 2]) for i, choice in enumerate(whole)] == [True] * 4
    for index, choice in enumerate(whole):
        mine = [part for part in parts if part["index"] == index]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine] == [None] * (len(mine) - 1) + ["length"]
        if choice["logprobs"] is None:
            assert all(part["logprobs"] is None for part in mine)
        else:
            for name, values in choice["logprobs"].items():
                assert [value for part in mine for value in part["logprobs"][name]] == values, name
        assert mine[0].get("prompt_logprobs") == choice.get("prompt_logprobs")


def test_best_of_returns_the_most_likely_answers(tiny: Server) -> None:
    def likelihood(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    every = choices(tiny, n=6)
    ranked = [sorted(every[start : start + 6], key=likelihood, reverse=True) for start in (0, 6)]
    assert ranked[0][:2] != every[:2], "the test needs answers that are not in order"
    best = choices(tiny, best_of=6)
    expected = [choice for mine in ranked for choice in mine[:2]]
    assert [choice["text"] for choice in best] == [choice["text"] for choice in expected]
    assert [choice["index"] for choice in best] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in choices(tiny, best_of=6, logprobs=None))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"best_of": 1}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"best_of": 33}, "best_of"),
        ({"best_of": 0}, "best_of"),
    ],
)
def test_bad_requests_name_the_field(tiny: Server, body: dict[str, Any], field: str) -> None:
    status, answer = tiny.post("/v1/completions", BODY | body)
    assert status == 400 and answer["error"]["param"] == field, answer
