"""The official `anthropic` client, unchanged, against SmolLM2."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.server.harness import Server

QUESTION: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREEDY = {"temperature": 0}  # the newest clients have no argument for it
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(smollm: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=smollm.url, api_key="none", max_retries=0, timeout=120)


def test_a_message(client: anthropic.Anthropic) -> None:
    made = client.messages.create(
        model="smollm2", messages=QUESTION, max_tokens=40, system="You are brief.", extra_body=GREEDY
    )
    assert made.content[0].type == "text" and "Paris" in made.content[0].text
    assert made.stop_reason == "end_turn" and made.usage.output_tokens > 3


def test_a_stream_says_what_the_whole_says(client: anthropic.Anthropic) -> None:
    options: Any = {"model": "smollm2", "messages": QUESTION, "max_tokens": 5, "extra_body": GREEDY}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text" and text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 5


def test_stop_sequences(client: anthropic.Anthropic) -> None:
    made = client.messages.create(
        model="smollm2", messages=QUESTION, max_tokens=40, stop_sequences=["France"], extra_body=GREEDY
    )
    assert made.stop_reason == "stop_sequence" and made.stop_sequence == "France"
    assert made.content[0].type == "text" and made.content[0].text == "The capital of "


def test_tools(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: Any = {
        "model": "smollm2",
        "messages": messages,
        "max_tokens": 120,
        "extra_body": GREEDY,
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    made = client.messages.create(**options)
    (use,) = made.content
    assert use.type == "tool_use" and use.name == "get_weather" and "city" in use.input
    assert made.stop_reason == "tool_use"
    with client.messages.stream(**options) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "tool_use" and final.content[0].input == use.input

    messages += [
        {"role": "assistant", "content": [use.model_dump()]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}]},
    ]
    follow = client.messages.create(model="smollm2", messages=messages, max_tokens=10, tools=[TOOL])
    assert follow.usage.output_tokens > 0


SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


def test_output_config(client: anthropic.Anthropic, smollm: Server) -> None:
    given: Any = {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}
    options: Any = {"model": "smollm2", "messages": QUESTION, "max_tokens": 60, "extra_body": GREEDY}
    made = client.messages.create(**options, output_config=given)
    assert made.content[0].type == "text" and set(json.loads(made.content[0].text)) == {"city", "large"}
    with client.messages.stream(**options, output_config=given) as stream:
        assert "".join(stream.text_stream) == made.content[0].text
    older = {"model": "smollm2", "messages": QUESTION, "max_tokens": 60, **GREEDY, "output_format": given["format"]}
    assert smollm.post("/v1/messages", older)[1]["content"][0]["text"] == made.content[0].text
    assert client.messages.count_tokens(model="smollm2", messages=QUESTION, output_config=given).input_tokens > 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "strin"}}}}, "output_config.format: "),
        ({"output_config": {"format": {"type": "xml", "schema": {}}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        (
            {
                "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
                "tools": [TOOL],
                "tool_choice": {"type": "any"},
            },
            "contradict",
        ),
        (
            {
                "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
                "output_format": {"type": "json_schema", "schema": SCHEMA},
            },
            "only one of",
        ),
    ],
)  # fmt: skip
def test_output_config_that_cannot_be_honoured(smollm: Server, more: Any, words: str) -> None:
    status, answer = smollm.post("/v1/messages", {"messages": QUESTION, "max_tokens": 4, **more})
    assert status == 400 and words in answer["error"]["message"], answer


def test_counting(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="smollm2", messages=QUESTION).input_tokens
    usage = client.messages.create(model="smollm2", messages=QUESTION, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_model_len"):
        client.messages.create(model="smollm2", messages=QUESTION, max_tokens=10**6)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", messages=QUESTION, max_tokens=5)
