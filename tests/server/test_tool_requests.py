"""Tools that cannot be called are refused by name, and a call that is cut off is no content: on every API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.harness import Server, serving
from tests.server.streams import events
from tests.tiny import Tiny, write_tiny_gguf

HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT, RESPONSES, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Server]:
    """A tiny model whose context has room for tools: nearly every character is a token."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny(context=8192))
    with serving(path, folder=logs) as server:
        yield server
        assert "Traceback" not in server.log


def request(path: str, parameters: dict[str, Any], most: int = 8, forces: bool = True, **more: Any) -> dict[str, Any]:
    """A request with the tool `get_weather`, which must be called if `forces`."""
    described = {"name": "get_weather", "parameters": parameters}
    choice: Any = "required"
    if path == RESPONSES:
        body: dict[str, Any] = {"input": "hi", "max_output_tokens": most, "tools": [{"type": "function", **described}]}
    elif path == MESSAGES:
        tool = {"name": "get_weather", "input_schema": parameters}
        body, choice = {"messages": HELLO, "max_tokens": most, "tools": [tool]}, {"type": "any"}
    else:
        body = {"messages": HELLO, "max_tokens": most, "tools": [{"type": "function", "function": described}]}
    body["temperature"] = 0
    if forces and path != OLLAMA:
        body["tool_choice"] = choice
    return body | more


def message_of(answer: dict[str, Any]) -> str:
    error = answer["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA])
@pytest.mark.parametrize("forces", [True, False])
def test_parameters_without_an_object_are_refused(tiny: Server, path: str, forces: bool) -> None:
    for parameters in ({"type": "string"}, {"type": "array"}, {"enum": ["a"]}, {"anyOf": [{"type": "null"}]}):
        status, answer = tiny.post(path, request(path, parameters, forces=forces))
        assert status == 400
        assert "tools[0]: no arguments fit the parameters of 'get_weather': they are an obj" in message_of(answer)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "required property 'a' is unsatisfiable"),
        ({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}, "property 'a'"),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "Invalid type: strin"),
        ({"type": "object", "not": {"required": ["a"]}}, "not"),
    ],
)
def test_a_forced_tool_that_no_grammar_can_call(
    tiny: Server, path: str, parameters: dict[str, Any], reason: str
) -> None:
    status, answer = tiny.post(path, request(path, parameters))
    message = message_of(answer)
    assert status == 400 and "tools[0]: no grammar can force a call of 'get_weather'" in message and reason in message
    assert tiny.post(path, request(path, parameters, most=1, forces=False))[0] == 200


@pytest.mark.parametrize("forces", [True, False])
def test_a_schema_that_is_nested_deeply_is_no_bug_of_ours(tiny: Server, forces: bool) -> None:
    parameters: dict[str, Any] = {"type": "object"}
    for _ in range(280):
        parameters = {"allOf": [parameters]}
    status, answer = tiny.post(CHAT, request(CHAT, parameters, most=1, forces=forces))
    assert status == (400 if forces else 200), answer


def test_the_tool_at_fault_is_named(tiny: Server) -> None:
    bad = {"type": "function", "function": {"name": "b", "parameters": {"type": "string"}}}
    tools = [*request(CHAT, WEATHER)["tools"], bad]
    status, answer = tiny.post(CHAT, request(CHAT, WEATHER, tools=tools))
    assert status == 400 and answer["error"]["param"] == "tools[1]" and "'b'" in answer["error"]["message"]


LENGTHS = (1, 4, 20, 70, 90)  # tokens


@pytest.mark.parametrize("most", LENGTHS)
def test_chat(tiny: Server, most: int) -> None:
    body = request(CHAT, WEATHER, most)
    (choice,) = tiny.post(CHAT, body)[1]["choices"]
    assert choice["finish_reason"] == "length" and not choice["message"]["content"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    arguments = call["function"]["arguments"]
    assert arguments == "" if most < 70 else arguments.startswith('{"city": "')
    parts = [part["choices"][0] for part in events(tiny, CHAT, body | {"stream": True})]
    deltas = [part["delta"] for part in parts]
    assert parts[-1]["finish_reason"] == "length" and not any(delta.get("content") for delta in deltas)
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "get_weather"
    assert "".join(call["function"]["arguments"] for call in calls) == arguments


def test_which_of_two_tools_is_meant_is_not_guessed(tiny: Server) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    body = request(CHAT, WEATHER, 4, tools=[*request(CHAT, WEATHER)["tools"], other])
    (choice,) = tiny.post(CHAT, body)[1]["choices"]
    assert choice["message"] == {"role": "assistant", "content": ""} and choice["finish_reason"] == "length"
    named = {"type": "function", "function": {"name": "get_weather"}}
    (choice,) = tiny.post(CHAT, body | {"tool_choice": named})[1]["choices"]
    assert choice["message"]["content"] is None and len(choice["message"]["tool_calls"]) == 1


@pytest.mark.parametrize("most", LENGTHS)
def test_responses(tiny: Server, most: int) -> None:
    body = request(RESPONSES, WEATHER, most)
    whole = tiny.post(RESPONSES, body)[1]
    streamed = events(tiny, RESPONSES, body | {"stream": True})[-1]["response"]
    for answer in (whole, streamed):
        (item,) = answer["output"]
        assert answer["status"] == item["status"] == "incomplete" and item["type"] == "function_call"
        assert item["arguments"] == whole["output"][0]["arguments"]


@pytest.mark.parametrize("most", LENGTHS)
def test_messages(tiny: Server, most: int) -> None:
    body = request(MESSAGES, WEATHER, most)
    answer = tiny.post(MESSAGES, body)[1]
    (block,) = answer["content"]
    assert answer["stop_reason"] == "max_tokens" and (block["type"], block["name"]) == ("tool_use", "get_weather")
    assert block["input"] == {}
    starts = [event for event in events(tiny, MESSAGES, body | {"stream": True}) if "content_block" in event]
    assert [event["content_block"]["type"] for event in starts] == ["tool_use"]
