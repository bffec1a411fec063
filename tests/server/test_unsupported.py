"""A chat field that the server cannot honour is refused by name. A value that asks for nothing is accepted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from octavo.server.api import completions
from octavo.server.api.chat import ChatRequest, check
from octavo.server.api.unsupported import REASONS
from octavo.server.http.body import decode
from octavo.server.http.errors import ApiError
from octavo.server.settings import Limits
from tests.server.harness import Server

ASKED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "chat_template": "{{ messages }}",
    "dry_multiplier": 0.8,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "mirostat": 2,
    "modalities": ["text", "audio"],
    "prompt_logprobs": 1,
    "service_tier": "flex",
    "store": True,
    "use_beam_search": True,
    "verbosity": "low",
    "web_search_options": {},
    "xtc_probability": 0.5,
}


def body(**fields: Any) -> ChatRequest:
    return decode(msgspec.json.encode({"messages": [{"role": "user", "content": "hi"}], **fields}), ChatRequest)


@pytest.mark.parametrize("field", REASONS)
def test_it_is_refused_by_name_with_the_reason(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(body(**{field: ASKED.get(field, "something")}), Limits())
    error = caught.value
    assert (error.status, error.param) == (400, field)
    assert error.message == f"{field} is not supported: {REASONS[field][0]}"


@pytest.mark.parametrize("field", REASONS)
def test_values_that_ask_for_nothing_are_accepted(field: str) -> None:
    for value in (None, *REASONS[field][1]):
        check(body(**{field: value}), Limits())


def test_best_of_returns_the_answers_with_the_highest_logprobs(tiny: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 1, "logprobs": True}

    def answers(**more: Any) -> list[tuple[str, float]]:
        """(text, logprob per token) of each answer."""
        choices = tiny.post("/v1/chat/completions", chat | more)[1]["choices"]
        values = [[entry["logprob"] for entry in choice["logprobs"]["content"]] for choice in choices]
        texts = [choice["message"]["content"] for choice in choices]
        return [(text, sum(each) / len(each)) for text, each in zip(texts, values, strict=True)]

    everything = sorted(answers(n=6), key=lambda answer: answer[1], reverse=True)
    assert answers(n=2, best_of=6) == everything[:2] and answers(best_of=6) == everything[:1]
    assert everything[0] != everything[-1]
    del chat["logprobs"]
    choice = tiny.post("/v1/chat/completions", chat | {"best_of": 6})[1]["choices"][0]
    assert choice["message"]["content"] == everything[0][0] and choice["logprobs"] is None
    for more in ({"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"best_of": 33}):
        status, answer = tiny.post("/v1/chat/completions", chat | more)
        assert status == 400 and answer["error"]["param"] == "best_of"


@pytest.mark.parametrize("field", sorted(REASONS.keys() - {*completions.HONOURED, "mm_processor_kwargs", "extra_body"}))
def test_completions_refuse_it_too(field: str) -> None:
    with pytest.raises(ApiError, match=f"{field} is not supported"):
        completions.check(decode(f'{{"prompt": "x", "{field}": {{}}}}'.encode(), completions.CompletionRequest), 1)


def test_completions_honour_more() -> None:
    honoured = b'{"prompt": "x", "echo": true, "prompt_logprobs": 1, "add_special_tokens": true}'
    completions.check(decode(honoured, completions.CompletionRequest), 1)
    with pytest.raises(ApiError, match="send the token ids"):
        completions.check(decode(b'{"prompt": "x", "add_special_tokens": false}', completions.CompletionRequest), 1)


def test_over_http(tiny: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for field, value in {"functions": [{"name": "f"}], "audio": {}, "web_search_options": {}}.items():
        status, answer = tiny.post("/v1/chat/completions", chat | {field: value})
        assert status == 400 and answer["error"]["param"] == field
    plain = {"store": False, "modalities": ["text"], "service_tier": "auto", "metadata": {"a": "b"}, "user": "u"}
    assert tiny.post("/v1/chat/completions", chat | plain)[0] == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/responses", {"input": "hi", "top_logprobs": 2}, "top_logprobs"),
        ("/v1/responses", {"input": "hi", "include": ["message.output_text.logprobs"]}, "include"),
        ("/v1/responses", {"input": "hi", "conversation": "c1"}, "conversation"),
        ("/v1/responses", {"input": "hi", "store": True}, "store"),
        ("/v1/responses", {"input": "hi", "stop": "a"}, "stop"),
        ("/v1/responses", {"input": "hi", "seed": 1}, "seed"),
        ("/v1/responses", {"input": "hi", "max_tokens": 5}, "use max_output_tokens"),
        ("/v1/responses", {"input": "hi", "response_format": {"type": "json_object"}}, "use text.format"),
        ("/v1/responses", {"input": "hi", "text": {"verbosity": "low"}}, "text.verbosity"),
        ("/v1/messages", {"max_tokens": 1, "stop": "a"}, "use stop_sequences"),
        ("/v1/messages", {"max_tokens": 1, "n": 2}, "n is not supported"),
        ("/v1/messages", {"max_tokens": 1, "tools": [{"type": "web_search_1", "name": "a"}]}, "must be custom; got"),
        ("/v1/chat/completions", {"extra_body": {"top_k": 1}}, "put its fields into the request"),
        ("/v1/chat/completions", {"response_format": {"type": "json"}}, "one of json_object, json_schema, text; got"),
        ("/v1/chat/completions", {"tool_choice": "any"}, "tool_choice: must be one of auto, none, required; got"),
        ("/v1/completions", {"prompt": "a", "prompt_embeds": "AAAA"}, "prompt_embeds"),
        ("/v1/embeddings", {"input": "a", "input_type": "query"}, "input_type"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "must be one of base64, float; got 'int8'"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "max_tokens": 5}, "use n_predict"),
        ("/v1/messages", {"max_tokens": 1, "output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ("/v1/messages", {"max_tokens": 1, "output_config": {"colour": 1}}, "output_config"),
        ("/v1/messages", {"max_tokens": 1, "thread": {"id": "a"}}, "thread"),
        ("/v1/messages", {"max_tokens": 1, "context_management": {"edits": [{"type": "x"}]}}, "context_management"),
        ("/v1/messages/count_tokens", {"mcp_servers": [{"url": "http://a"}]}, "mcp_servers"),
        ("/v1/messages", {"max_tokens": 1, "mcp_servers": [{"url": "http://a"}]}, "mcp_servers"),
        ("/v1/chat/completions", {"structured_outputs": {"json": {}, "whitespace_pattern": " ?"}},
         "structured_outputs.whitespace_pattern"),
        ("/v1/chat/completions", {"structured_outputs": {"json": {}, "colour": 1}}, "structured_outputs"),
    ],
)  # fmt: skip
def test_other_routes_refuse_by_name_too(tiny: Server, path: str, fields: dict[str, Any], param: str) -> None:
    talk = {} if "input" in fields else {"messages": [{"role": "user", "content": "hi"}]}
    status, answer = tiny.post(path, talk | fields)
    assert status == 400 and param.removeprefix("structured_outputs.") in answer["error"]["message"]


def test_other_routes_accept_values_that_ask_for_nothing(tiny: Server) -> None:
    small = {"max_output_tokens": 1, "store": False, "include": ["reasoning.encrypted_content"], "top_logprobs": 0}
    assert tiny.post("/v1/responses", {"input": "hi"} | small)[0] == 200
    given = {"regex": "a", "disable_any_whitespace": False, "disable_fallback": True, "whitespace_pattern": None}
    body = {"prompt": "a", "max_tokens": 2, "structured_outputs": given, "suffix": ""}
    assert tiny.post("/v1/completions", body)[0] == 200
