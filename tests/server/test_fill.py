"""Fill-in-the-middle: `suffix` of /v1/completions, and /infill. The prompt is what the model was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import model_path
from tests.server.harness import Server, serving
from tests.server.streams import events

BODY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "logprobs": 0}
GAP: dict[str, Any] = {"input_prefix": "a = ", "input_suffix": "\n", "temperature": 0, "n_predict": 6}


def tokens(server: Server, text: str) -> list[int]:
    found: list[int] = server.post("/tokenize", {"prompt": text, "add_special_tokens": False})[1]["tokens"]
    return found


def complete(server: Server, **body: Any) -> dict[str, Any]:
    status, answer = server.post("/v1/completions", BODY | body)
    assert status == 200, answer
    return answer


def infill(server: Server, **body: Any) -> dict[str, Any]:
    status, answer = server.post("/infill", GAP | body)
    assert status == 200, answer
    return answer


def test_a_prompt_for_a_gap_is_not_cut(coder: Server) -> None:
    for path, body in {"/v1/completions": {"prompt": "a = ", "suffix": "\n"}, "/infill": GAP}.items():
        status, answer = coder.post(path, body | {"truncate_prompt_tokens": 2})
        assert status == 400 and answer["error"]["param"] == "truncate_prompt_tokens"


def test_a_suffix_is_read_before_the_answer(coder: Server) -> None:
    marked = complete(coder, prompt=tokens(coder, "<fim_prefix>def f(<fim_suffix>): pass<fim_middle>"))
    found = complete(coder, prompt="def f(", suffix="): pass")
    assert found["choices"][0]["text"] == marked["choices"][0]["text"]
    assert found["choices"][0]["logprobs"]["token_logprobs"] == marked["choices"][0]["logprobs"]["token_logprobs"]
    assert found["usage"] == marked["usage"] | {"prompt_tokens_details": found["usage"]["prompt_tokens_details"]}
    assert complete(coder, prompt="def f(", suffix="")["choices"][0] != found["choices"][0]
    given = complete(coder, prompt=tokens(coder, "def f("), suffix="): pass")
    assert given["choices"][0] == found["choices"][0]


def test_marks_in_a_program_are_text(coder: Server) -> None:
    """Otherwise a program about such models would change its own prompt."""
    usage = complete(coder, prompt='MARK = "<fim_suffix>', suffix='"')["usage"]
    assert usage["prompt_tokens"] > len(tokens(coder, 'MARK = "<fim_suffix>"')) + 3 + 5


def test_infill_is_the_same_prompt(coder: Server) -> None:
    found = infill(coder)
    same = complete(coder, prompt=GAP["input_prefix"], suffix=GAP["input_suffix"], max_tokens=6)
    assert found["content"] == same["choices"][0]["text"] and found["tokens_predicted"] == 6
    assert found["stop_type"] == "limit" and found["timings"]["predicted_n"] == 6
    begun = infill(coder, prompt="1 +", n_predict=0)
    assert begun["tokens_evaluated"] == found["tokens_evaluated"] + len(tokens(coder, "1 +"))
    more = infill(coder, input_extra=[{"filename": "b.py", "text": "b"}], n_predict=0)
    extra = tokens(coder, "<file_sep>b.py\nb<file_sep>filename\n")
    assert more["tokens_evaluated"] == found["tokens_evaluated"] + len(extra)


def test_infill_streams_and_selects_fields(coder: Server) -> None:
    parts = events(coder, "/infill", GAP | {"stream": True})
    assert "".join(part["content"] for part in parts) == infill(coder)["content"]
    assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1]["tokens_predicted"] == 6
    chosen = infill(coder, response_fields=["content", "timings/predicted_n", "none"])
    assert chosen == {"content": infill(coder)["content"], "timings/predicted_n": 6}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "model"),
    ],
)
def test_a_model_without_such_tokens_is_named(tiny: Server, path: str, body: dict[str, Any], field: str) -> None:
    status, answer = tiny.post(path, body)
    assert status == 400 and answer["error"]["param"] == field and "tiny" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "a", "suffix": "b", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "suffix": "b" * 2000}, "prompt"),
        ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": "a" * 2000, "input_suffix": ""}, "input_prefix"),
        ("/infill", GAP | {"n": 2}, "n"),
        ("/infill", GAP | {"mirostat": 1}, "mirostat"),
        ("/infill", GAP | {"grammar": 'root ::= "a"'}, "grammar"),
    ],
)
def test_bad_requests_name_the_field(coder: Server, path: str, body: dict[str, Any], field: str) -> None:
    status, answer = coder.post(path, body)
    assert status == 400 and answer["error"]["param"] == field, answer


def test_infill_takes_what_editors_send(coder: Server) -> None:
    sent = {"samplers": ["top_k", "top_p", "infill"], "t_max_predict_ms": 500, "cache_prompt": True, "n_indent": 4}
    assert infill(coder, **sent)["content"] == infill(coder)["content"]


@pytest.mark.slow
def test_a_code_model_fills_a_gap(logs: Any) -> None:
    with serving(model_path("qwen2.5-coder-1.5b"), "--max-model-len", "512", folder=logs) as server:
        found = complete(server, prompt="def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n", max_tokens=16)
        assert found["choices"][0]["text"].strip() == "a + b" and found["choices"][0]["finish_reason"] == "stop"
