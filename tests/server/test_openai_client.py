"""The official `openai` client, unchanged, against SmolLM2."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.server.harness import Server

QUESTION: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
# Bounded, so that every sample ends within max_tokens: a small model may never close a string.
NAME: Any = {"type": "string", "maxLength": 30}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": NAME, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(smollm: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{smollm.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=40)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.prompt_tokens + (
        answer.usage.completion_tokens
    )


def test_a_stream_says_what_the_whole_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20)
    stream = client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    usage = chunks[-1].usage
    assert usage is not None and whole.usage is not None and not chunks[-1].choices
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])


def test_seeds_and_several_answers(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        made = client.chat.completions.create(model="smollm2", messages=QUESTION, seed=seed, n=3, max_tokens=16)
        assert [choice.index for choice in made.choices] == [0, 1, 2]
        return [choice.message.content for choice in made.choices]

    first = ask(7)
    assert first == ask(7)
    assert first != ask(8)
    assert len(set(first)) > 1


def test_several_streamed_answers_keep_apart(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, seed=3, n=3, max_tokens=12)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(
        model="smollm2", messages=QUESTION, seed=3, n=3, max_tokens=12, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: openai.OpenAI, stream: bool) -> None:
    options: Any = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 40, "stop": ["France"]}
    if stream:
        chunks = [c.choices[0] for c in client.chat.completions.create(**options, stream=True)]
        text, reason = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
    else:
        choice = client.chat.completions.create(**options).choices[0]
        text, reason = choice.message.content or "", choice.finish_reason
    assert text == "The capital of " and reason == "stop"


def test_logprobs(client: openai.OpenAI) -> None:
    options: Any = {"messages": QUESTION, "temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(model="smollm2", **options).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs) == entry.logprob
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(model="smollm2", **options, stream=True)
        for entry in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert [e.logprob for e in streamed] == [e.logprob for e in choice.logprobs.content]


def test_completions(client: openai.OpenAI) -> None:
    made = client.completions.create(
        model="smollm2", prompt=["The capital of France is", "Two plus two is"], temperature=0, max_tokens=3, logprobs=2
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    assert "Paris" in made.choices[0].text
    assert made.choices[0].logprobs is not None and len(made.choices[0].logprobs.tokens or []) == 3
    stream = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=3, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == made.choices[0].text


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    made = client.completions.create(model="smollm2", prompt="a b c", echo=True, logprobs=0, max_tokens=1)
    logprobs = made.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs
    assert logprobs.tokens[:3] == ["a", " b", " c"] and logprobs.token_logprobs[0] is None
    assert all(value is not None and value < 0 for value in logprobs.token_logprobs[1:])


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)
    mood: Literal["glad", "sad"]


def test_structured_output(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Describe Anna, who is 31 and glad, as JSON."}]
    for seed in range(3):
        made = client.chat.completions.parse(
            model="smollm2", messages=messages, response_format=Person, seed=seed, temperature=0.5, max_tokens=200
        )
        assert isinstance(made.choices[0].message.parsed, Person)


def test_structured_output_in_a_stream_of_several_answers(client: openai.OpenAI) -> None:
    texts = ["", "", ""]
    schema: Any = {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}}
    messages: Any = [{"role": "user", "content": "Describe Anna as JSON."}]
    for chunk in client.chat.completions.create(
        model="smollm2",
        messages=messages,
        response_format=schema,
        n=3,
        seed=1,
        temperature=0.4,
        max_tokens=200,
        stream=True,
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    for text in texts:
        Person.model_validate_json(text)


@pytest.mark.parametrize(
    ("extra", "right"),
    [
        ({"structured_outputs": {"regex": r"\d{3}-\d{4}"}}, lambda t: len(t) == 8 and t[3] == "-"),
        ({"structured_outputs": {"choice": ["red", "dark blue"]}}, lambda t: t in ("red", "dark blue")),
        ({"guided_choice": ["yes", "no"]}, lambda t: t in ("yes", "no")),
        ({"structured_outputs": {"grammar": 'start: "a" /[0-9]{2}/ "z"'}}, lambda t: t[0] + t[-1] == "az"),
        ({"response_format": {"type": "json_object"}}, lambda t: isinstance(json.loads(t), dict)),
    ],
)
def test_every_kind_of_structure(client: openai.OpenAI, extra: Any, right: Any) -> None:
    messages: Any = [{"role": "user", "content": 'Write something short, such as {"a": 1}.'}]
    made = client.chat.completions.create(
        model="smollm2", messages=messages, extra_body=extra, temperature=0, max_tokens=300
    )
    assert right(made.choices[0].message.content), made.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools(client: openai.OpenAI, choice: Any) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: Any = {
        "model": "smollm2",
        "messages": messages,
        "tools": [WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "seed": 5,
    }
    made = client.chat.completions.create(**options, max_tokens=120).choices[0]
    assert made.finish_reason == "tool_calls" and made.message.tool_calls
    call: Any = made.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and set(arguments) == {"city", "unit"}

    name, streamed, pieces = "", "", 0
    for chunk in client.chat.completions.create(**options, max_tokens=120, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            name += delta.function.name or ""
            streamed += delta.function.arguments or ""
            pieces += 1
    assert (name, streamed) == ("get_weather", call.function.arguments) and pieces > 4


def test_who_names_a_tool_gets_one_call(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris, in Rome and in Oslo?"}]
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(3):
        made = client.chat.completions.create(
            model="smollm2", messages=messages, tools=[WEATHER], tool_choice=choice, seed=seed, max_tokens=200
        )
        assert len(made.choices[0].message.tool_calls or ()) == 1 and made.choices[0].finish_reason == "tool_calls"


def test_a_tool_conversation_is_taken_back(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages: Any = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 21 C"},
    ]
    made = client.chat.completions.create(model="smollm2", messages=messages, tools=[WEATHER], max_tokens=20)
    assert made.usage is not None and made.usage.prompt_tokens > 100


def test_embeddings(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="smollm2", input=["a cat", "a kitten", "tax law"])
    vectors = [entry.embedding for entry in made.data]
    assert {len(vector) for vector in vectors} == {576}
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors)

    def likeness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert likeness(vectors[0], vectors[1]) > likeness(vectors[0], vectors[2])
    plain = client.embeddings.create(model="smollm2", input="a cat", encoding_format="float").data[0].embedding
    assert max(abs(x - y) for x, y in zip(plain, vectors[0], strict=True)) < 1e-6
    last = client.embeddings.create(model="smollm2", input="a cat", extra_body={"pooling": "last"})
    assert last.model_extra == {"pooling": "last"} and last.data[0].embedding != vectors[0]


def test_responses(client: openai.OpenAI) -> None:
    made = client.responses.create(model="smollm2", input=QUESTION[0]["content"], temperature=0, max_output_tokens=40)
    assert made.status == "completed" and "Paris" in made.output_text
    events = list(
        client.responses.create(
            model="smollm2", input=QUESTION[0]["content"], temperature=0, max_output_tokens=40, stream=True
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == made.output_text
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert events[-1].response.output_text == text


def test_responses_with_a_tool_and_with_a_format(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"]}
    options: Any = {"model": "smollm2", "temperature": 0}
    made = client.responses.create(
        **options,
        input="Weather in Rome?",
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=120,
    )
    (call,) = made.output
    assert call.type == "function_call" and "city" in json.loads(call.arguments)
    parsed = client.responses.parse(**options, input="Describe Anna.", text_format=Person, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Person)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").id == "smollm2"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=-1)
    assert caught.value.param == "temperature"
