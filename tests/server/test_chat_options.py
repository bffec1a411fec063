"""Reasoning and tool calls through a whole server: a template opens reasoning, and a grammar writes the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.harness import Server, serving

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 8}
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}
CALL = '{"name": "f", "arguments": {"x": "a b"}}'


@pytest.fixture(scope="module")
def server(tiny_model: Path, logs: Path) -> Iterator[Server]:
    with serving(tiny_model, "--chat-template", TEMPLATE, "--enable-auto-tool-choice", folder=logs) as server:
        yield server
        assert "Traceback" not in server.log


def ask(server: Server, path: str = "/v1/chat/completions", **more: Any) -> Any:
    status, answer = server.post(path, CHAT | more)
    assert status == 200, answer
    return answer


def message(server: Server, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = ask(server, **more)["choices"][0]["message"]
    return made


def plain(server: Server, prompt: str) -> str:
    """How the model continues a text."""
    ids = server.post("/tokenize", {"prompt": prompt, "add_special_tokens": False})[1]["tokens"]
    answer = server.post("/v1/completions", {"prompt": ids, "temperature": 0, "max_tokens": 8})[1]
    text: str = answer["choices"][0]["text"]
    return text


def test_a_prompt_that_opens_reasoning(server: Server) -> None:
    text = plain(server, "[user]hi\n[assistant]<think>")
    assert text.strip() and message(server) == {
        "role": "assistant",
        "content": "",
        "reasoning_content": text.strip(),
    }
    assert message(server, include_reasoning=False) == {"role": "assistant", "content": ""}
    blocks = ask(server, "/v1/messages")["content"]
    assert blocks[0] == {"type": "thinking", "thinking": text.strip(), "signature": ""}
    made = server.post("/v1/responses", {"input": "hi", "temperature": 0, "max_output_tokens": 8})[1]
    assert made["output"][0]["content"] == [{"type": "reasoning_text", "text": text.strip()}]
    assert made["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize(
    "more",
    [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}],
    ids=str,
)
def test_reasoning_can_be_switched_off(server: Server, more: dict[str, Any]) -> None:
    text = plain(server, "[user]hi\n[assistant]<think></think>")
    assert message(server, **more) == {"role": "assistant", "content": text}
    assert ask(server, "/v1/messages", thinking={"type": "disabled"})["content"] == [{"type": "text", "text": text}]


def test_what_a_structure_forces_is_no_reasoning(server: Server) -> None:
    assert message(server, structured_outputs={"choice": ["yes"]}) == {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_in_the_text(server: Server, stream: bool) -> None:
    """With tool_choice auto. The grammar is there only to make a random model write a call."""
    more: dict[str, Any] = {"tools": [TOOL], "structured_outputs": {"choice": [CALL]}, "max_tokens": 100}
    answer = ask(server, **more, stream=stream)
    if stream:
        choices = [json.loads(line[6:])["choices"][0] for line in answer.splitlines() if line.startswith("data: {")]
        pieces = [call["function"] for choice in choices for call in choice["delta"].get("tool_calls", ())]
        name, arguments = ("".join(piece.get(key, "") for piece in pieces) for key in ("name", "arguments"))
        reason, content = choices[-1]["finish_reason"], "".join(each["delta"].get("content", "") for each in choices)
    else:
        (choice,) = answer["choices"]
        (call,) = choice["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        reason, content = choice["finish_reason"], choice["message"]["content"] or ""
    assert (name, arguments, reason, content) == ("f", '{"x": "a b"}', "tool_calls", "")


def test_a_call_of_a_tool_that_is_not_offered_is_content(server: Server) -> None:
    other = {"type": "function", "function": {"name": "g"}}
    made = message(server, tools=[other], structured_outputs={"choice": [CALL]}, max_tokens=100)
    assert made == {"role": "assistant", "content": CALL}


def test_a_forced_call_of_a_tool_without_parameters_has_no_arguments(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    made = message(server, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=100)
    assert made["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
