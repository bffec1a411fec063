"""Reasoning, text and tool calls in the formats of the APIs: streamed or whole, an answer says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest

from octavo.answers.reader import Reading
from octavo.answers.reasoning import REASONING
from octavo.outputs import CompletionOutput, OutputDelta, RequestMetrics, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.server.api.chat_render import ChatRenderer
from octavo.server.api.messages import error_body
from octavo.server.api.messages_render import MessagesRenderer
from octavo.server.api.ollama.render import OllamaRenderer
from octavo.server.api.responses_render import ResponsesRenderer
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.generation.job import GenerationJob
from octavo.server.generation.streaming import Renderer
from octavo.types import Request
from tests.unit.answers.cuts import splits

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
TEXT = f"<think>\nHm. It adds.\n</think>\n\nI add.\n{CALL}\n{CALL}"
READING = Reading(REASONING["qwen3"], tools={"add": True})


class _Runtime:
    tokenizer = None


def job(text: str) -> GenerationJob:
    answer = CompletionOutput(0, text, [1, 2], finish_reason="stop")
    output = RequestOutput("r", None, [1], None, [answer], True, RequestMetrics(0.0))
    runtime: Any = _Runtime()
    request = Request("r", [1], SamplingParams(), 0)
    return GenerationJob("id-1", "m", runtime, generations=[Generation(request, output, Inbox(), 0)])


def streamed(make: Callable[[], Renderer], pieces: list[str]) -> list[dict[str, Any]]:
    """The events of a stream."""
    render, (generation,) = make(), job(TEXT).generations
    deltas = [OutputDelta("r", 0, piece, []) for piece in pieces] + [OutputDelta("r", 0, "", [], None, "stop")]
    text = render.head() + b"".join(render.delta(generation, new) for new in deltas) + render.tail()
    data = [line[6:] for line in text.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


def chat(reading: Reading | None = READING, shows: bool = True) -> ChatRenderer:
    return ChatRenderer(job(TEXT), 1, reading, None, True, shows)


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of a stream of chat chunks."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for chunk in chunks:
        openai.types.chat.ChatCompletionChunk.model_validate(chunk)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    message["tool_calls"].append({"type": call["type"], "function": dict(call["function"])})
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message


def test_chat_completions() -> None:
    whole = json.loads(chat().whole())["choices"][0]
    message = whole["message"]
    assert message["reasoning_content"] == "Hm. It adds." and message["content"] == "I add.\n"
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"a": 1, "b": "é"}] * 2
    assert whole["finish_reason"] == "tool_calls"
    calls = [{"type": call["type"], "function": call["function"]} for call in message["tool_calls"]]
    for pieces in splits(TEXT, samples=5):
        made = assembled(streamed(chat, pieces))
        assert {**made, "role": "assistant"} == {**message, "tool_calls": calls}


def test_reasoning_can_be_left_out() -> None:
    message = json.loads(chat(shows=False).whole())["choices"][0]["message"]
    assert "reasoning_content" not in message and message["content"] == "I add.\n"
    made = assembled(streamed(lambda: chat(shows=False), list(TEXT)))
    assert made["reasoning_content"] == "" and made["content"] == "I add.\n"


def test_answers_without_reasoning_have_no_such_field() -> None:
    plain = Reading(REASONING["qwen3"])
    render = ChatRenderer(job("Yes."), 1, plain, None, True)
    assert json.loads(render.whole())["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}


def test_messages() -> None:
    whole = json.loads(MessagesRenderer(job(TEXT), READING, error_body).whole())
    anthropic.types.Message.model_validate(whole)
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][0]["thinking"] == "Hm. It adds." and whole["stop_reason"] == "tool_use"
    for pieces in splits(TEXT, samples=5):
        events = streamed(lambda: MessagesRenderer(job(TEXT), READING, error_body), pieces)
        blocks: list[dict[str, Any]] = []
        for event in events:
            if event["type"] == "content_block_start":
                anthropic.types.RawContentBlockStartEvent.model_validate(event)
                blocks.append(event["content_block"])
            if event["type"] == "content_block_delta":
                anthropic.types.RawContentBlockDeltaEvent.model_validate(event)
                delta = event["delta"]
                key = delta["type"].removesuffix("_delta").replace("input_json", "input")
                before = blocks[-1][key] if isinstance(blocks[-1][key], str) else ""
                blocks[-1][key] = before + delta["partial_json" if key == "input" else key]
        for block in blocks[2:]:
            block["input"] = json.loads(block["input"])
        strip = [{key: value for key, value in block.items() if key != "id"} for block in blocks]
        assert strip == [{key: value for key, value in block.items() if key != "id"} for block in whole["content"]]


def test_responses() -> None:
    whole = json.loads(ResponsesRenderer(job(TEXT), READING, {}).whole())
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert whole["output"][0]["content"][0]["text"] == "Hm. It adds."
    openai.types.responses.ResponseReasoningItem.model_validate(whole["output"][0])
    for pieces in splits(TEXT, samples=5):
        events = streamed(lambda: ResponsesRenderer(job(TEXT), READING, {}), pieces)
        reasoning = [event for event in events if event["type"].startswith("response.reasoning_text")]
        for event in reasoning[:-1]:
            openai.types.responses.ResponseReasoningTextDeltaEvent.model_validate(event)
        openai.types.responses.ResponseReasoningTextDoneEvent.model_validate(reasoning[-1])
        assert "".join(event["delta"] for event in reasoning[:-1]) == reasoning[-1]["text"] == "Hm. It adds."
        last = events[-1]["response"]["output"]
        assert [item["type"] for item in last] == [item["type"] for item in whole["output"]]
        assert last[2]["arguments"] == whole["output"][2]["arguments"]


def test_ollama() -> None:
    def make() -> OllamaRenderer:
        return OllamaRenderer(job(TEXT), True, READING, None, False, 0.0, 0.0)

    whole = json.loads(make().whole())["message"]
    assert (whole["thinking"], whole["content"]) == ("Hm. It adds.", "I add.\n")
    assert [call["function"]["arguments"] for call in whole["tool_calls"]] == [{"a": 1, "b": "é"}] * 2
    for pieces in splits(TEXT, samples=5):
        render, (generation,) = make(), job(TEXT).generations
        deltas = [OutputDelta("r", 0, piece, []) for piece in pieces] + [OutputDelta("r", 0, "", [], None, "stop")]
        lines = b"".join(render.delta(generation, new) for new in deltas).splitlines()
        messages = [json.loads(line)["message"] for line in lines]
        assert "".join(message["content"] for message in messages) == whole["content"]
        assert "".join(message.get("thinking", "") for message in messages) == whole["thinking"]
        assert [call for message in messages for call in message.get("tool_calls", ())] == whole["tool_calls"]


@pytest.mark.parametrize("reading", [None, Reading(REASONING["qwen3"])])
def test_text_that_is_not_read_comes_out_as_it_is(reading: Reading | None) -> None:
    text = f"A {CALL}"
    assert json.loads(ChatRenderer(job(text), 1, reading, None, True).whole())["choices"][0]["message"] == {
        "role": "assistant",
        "content": text,
    }
