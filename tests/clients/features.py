"""What programs do with a server, with their own clients: one function for each client and feature.

Run by `scripts/clients` in an environment of its own, without octavo. Each raises if the feature does not work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEATURES: list[tuple[str, str, Callable[[Served], None]]] = []
QUESTION = "Say hello in one short sentence."
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": WEATHER}}
ASK_WEATHER = "What is the weather in Rome? Use the tool."


@dataclass(frozen=True)
class Served:
    """url: of the server, without /v1. model: its name there."""

    url: str
    model: str


def feature(client: str, name: str) -> Callable[[Callable[[Served], None]], Callable[[Served], None]]:
    def add(function: Callable[[Served], None]) -> Callable[[Served], None]:
        FEATURES.append((client, name, function))
        return function

    return add


def openai(served: Served) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{served.url}/v1", api_key="none")


def chat(served: Served, **more: Any) -> Any:
    messages = [{"role": "user", "content": more.pop("ask", QUESTION)}]
    body = {"model": served.model, "messages": messages, "max_tokens": 48, "temperature": 0, **more}
    return openai(served).chat.completions.create(**body)


@feature("openai", "chat")
def openai_chat(served: Served) -> None:
    assert chat(served).choices[0].message.content


@feature("openai", "chat, streamed with usage")
def openai_stream(served: Served) -> None:
    chunks = list(chat(served, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == chat(served).choices[0].message.content and chunks[-1].usage.completion_tokens > 0


@feature("openai", "tools, streamed")
def openai_tools(served: Served) -> None:
    chunks = chat(served, ask=ASK_WEATHER, tools=[TOOL], tool_choice="required", stream=True)
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert calls[0].function.name == "get_weather"
    assert "city" in json.loads("".join(call.function.arguments or "" for call in calls))


@feature("openai", "structured output (parse)")
def openai_parse(served: Served) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        inhabitants: int

    messages = [{"role": "user", "content": "Rome has 2800000 inhabitants. Write this as JSON."}]
    parse = openai(served).chat.completions.parse
    answer = parse(model=served.model, messages=messages, response_format=City, max_tokens=64, temperature=0)
    assert answer.choices[0].message.parsed == City(name="Rome", inhabitants=2_800_000)


@feature("openai", "logprobs and n")
def openai_logprobs(served: Served) -> None:
    answer = chat(served, logprobs=True, top_logprobs=2, n=2, temperature=1, seed=1)
    assert len(answer.choices) == 2 and len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


@feature("openai", "completions with echo, streamed")
def openai_completions(served: Served) -> None:
    body = {"model": served.model, "prompt": "Once upon a time", "max_tokens": 8, "echo": True}
    chunks = openai(served).completions.create(stream=True, **body)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices).startswith("Once upon a time")


@feature("openai", "responses")
def openai_responses(served: Served) -> None:
    body = {"model": served.model, "input": QUESTION, "max_output_tokens": 32, "store": False}
    assert openai(served).responses.create(**body).output_text
    kinds = [event.type for event in openai(served).responses.create(stream=True, **body)]
    assert "response.output_text.delta" in kinds and kinds[-1] in ("response.completed", "response.incomplete")


@feature("openai", "embeddings")
def openai_embeddings(served: Served) -> None:
    assert len(openai(served).embeddings.create(model=served.model, input=["a", "b"]).data) == 2


@feature("openai", "models")
def openai_models(served: Served) -> None:
    assert served.model in [model.id for model in openai(served).models.list()]


def anthropic(served: Served) -> Any:
    from anthropic import Anthropic

    return Anthropic(base_url=served.url, api_key="none")


@feature("anthropic", "messages")
def anthropic_messages(served: Served) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    answer = anthropic(served).messages.create(model=served.model, max_tokens=32, messages=messages)
    assert answer.content[0].text and answer.usage.output_tokens > 0


@feature("anthropic", "messages, streamed")
def anthropic_stream(served: Served) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    with anthropic(served).messages.stream(model=served.model, max_tokens=32, messages=messages) as stream:
        assert "".join(stream.text_stream) and stream.get_final_message().stop_reason


@feature("anthropic", "a prefill is continued")
def anthropic_prefill(served: Served) -> None:
    messages = [{"role": "user", "content": "Count: 1 2 3 4 5"}, {"role": "assistant", "content": "1 2 3"}]
    body = {"model": served.model, "max_tokens": 8, "messages": messages, "extra_body": {"temperature": 0}}
    assert anthropic(served).messages.create(**body).content[0].text.strip().startswith("4")


@feature("anthropic", "tools")
def anthropic_tools(served: Served) -> None:
    tool = {"name": "get_weather", "description": "Weather.", "input_schema": WEATHER}
    body = {"model": served.model, "max_tokens": 64, "tools": [tool], "tool_choice": {"type": "any"}}
    answer = anthropic(served).messages.create(messages=[{"role": "user", "content": ASK_WEATHER}], **body)
    assert next(block.name for block in answer.content if block.type == "tool_use") == "get_weather"


@feature("anthropic", "count_tokens")
def anthropic_count(served: Served) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    assert anthropic(served).messages.count_tokens(model=served.model, messages=messages).input_tokens > 5


def ollama(served: Served) -> Any:
    from ollama import Client

    return Client(served.url)


@feature("ollama", "chat, streamed")
def ollama_chat(served: Served) -> None:
    messages, options = [{"role": "user", "content": QUESTION}], {"num_predict": 32}
    parts = list(ollama(served).chat(served.model, messages, options=options, stream=True))
    assert "".join(part.message.content for part in parts) and parts[-1].done


@feature("ollama", "chat with a tool")
def ollama_tools(served: Served) -> None:
    messages = [{"role": "user", "content": ASK_WEATHER}]
    answer = ollama(served).chat(served.model, messages, tools=[TOOL], options={"temperature": 0, "num_predict": 64})
    assert answer.message.tool_calls[0].function.arguments["city"]


@feature("ollama", "generate with format")
def ollama_generate(served: Served) -> None:
    options = {"temperature": 0, "num_predict": 64}
    answer = ollama(served).generate(served.model, "Rome as JSON: ", format=WEATHER, options=options)
    assert json.loads(answer.response)["city"]


@feature("ollama", "embed, list, show, ps")
def ollama_models(served: Served) -> None:
    client = ollama(served)
    assert len(client.embed(served.model, ["a", "b"]).embeddings) == 2
    assert f"{served.model}:latest" in [model.model for model in client.list().models]
    assert client.show(served.model).modelinfo and client.ps().models


def litellm() -> Any:
    import litellm as module

    module.suppress_debug_info = True
    return module


@feature("litellm", "completion, streamed (openai)")
def litellm_openai(served: Served) -> None:
    route = {"model": f"openai/{served.model}", "api_base": f"{served.url}/v1", "api_key": "none"}
    messages = [{"role": "user", "content": QUESTION}]
    assert litellm().completion(messages=messages, max_tokens=32, **route).choices[0].message.content
    chunks = litellm().completion(messages=messages, max_tokens=32, stream=True, **route)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@feature("litellm", "completion (anthropic, ollama_chat)")
def litellm_others(served: Served) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    for provider in ("anthropic", "ollama_chat"):
        route = {"model": f"{provider}/{served.model}", "api_base": served.url, "api_key": "none"}
        assert litellm().completion(messages=messages, max_tokens=32, **route).choices[0].message.content


@feature("litellm", "rerank (hosted_vllm)")
def litellm_rerank(served: Served) -> None:
    route = {"model": f"hosted_vllm/{served.model}", "api_base": served.url, "api_key": "none"}
    found = litellm().rerank(query="a city", documents=["Rome", "a banana"], top_n=1, **route)
    assert len(found.results) == 1


def langchain(served: Served) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=served.model, base_url=f"{served.url}/v1", api_key="none", max_tokens=64, temperature=0)


@feature("langchain-openai", "invoke and stream")
def langchain_chat(served: Served) -> None:
    text = langchain(served).invoke(QUESTION).content
    assert text and "".join(chunk.content for chunk in langchain(served).stream(QUESTION)) == text


@feature("langchain-openai", "structured output and tools")
def langchain_tools(served: Served) -> None:
    from langchain_core.tools import tool
    from pydantic import BaseModel

    class City(BaseModel):
        """A city."""

        name: str

    @tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    assert langchain(served).with_structured_output(City).invoke("Rome is a city.").name
    bound = langchain(served).bind_tools([get_weather], tool_choice="required")
    assert bound.invoke(ASK_WEATHER).tool_calls[0]["name"] == "get_weather"


@feature("langchain-openai", "embeddings (token ids)")
def langchain_embeddings(served: Served) -> None:
    from langchain_openai import OpenAIEmbeddings

    route = {"model": served.model, "base_url": f"{served.url}/v1", "api_key": "none"}
    assert OpenAIEmbeddings(check_embedding_ctx_length=False, **route).embed_query("Rome")


@feature("instructor", "tools and JSON modes")
def instructor_modes(served: Served) -> None:
    import instructor
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    messages = [{"role": "user", "content": "Rome is a city. Extract its name."}]
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai(served), mode=mode)
        create = client.chat.completions.create
        made = create(model=served.model, messages=messages, response_model=City, max_tokens=64, temperature=0)
        assert made.name


@feature("openai-agents", "an agent with a tool (chat completions)")
def agents_tool(served: Served) -> None:
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    cities: list[str] = []

    @function_tool(is_enabled=lambda *_: not cities)  # offered once: a small model calls it again and again
    def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return "sunny"

    client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none")
    agent = Agent(
        name="weather",
        instructions="Answer in one short sentence.",
        tools=[get_weather],
        model=OpenAIChatCompletionsModel(served.model, client),
        model_settings=ModelSettings(tool_choice="required", max_tokens=64, temperature=0),
    )
    assert Runner.run_sync(agent, ASK_WEATHER, max_turns=4).final_output and cities


@feature("openai-agents", "an agent (responses)")
def agents_responses(served: Served) -> None:
    from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    model = OpenAIResponsesModel(served.model, AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none"))
    settings = ModelSettings(max_tokens=32, temperature=0)
    agent = Agent(name="greeter", instructions="Be brief.", model=model, model_settings=settings)
    assert Runner.run_sync(agent, QUESTION).final_output


TASK = """\
task: tiny_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_text: "{{{{question}}}}"
{more}
"""
ROWS = [
    {"question": "1 + 1 =", "choices": [" 2", " 7"], "gold": 0},
    {"question": "Rome is in", "choices": [" Italy", " a box"], "gold": 0},
]


def lm_eval(served: Served, kind: str, output: str, more: str, model: str, arguments: str) -> dict[str, Any]:
    """Runs a task of two questions, and returns its results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (folder / "task.yaml").write_text(TASK.format(kind=kind, data=data, output=output, more=more))
        options = ["--model", model, "--model_args", f"model={served.model},{arguments}", "--tasks", f"tiny_{kind}"]
        options += ["--include_path", name, "--output_path", name]
        options += ["--apply_chat_template"] if "chat" in model else []
        done = subprocess.run([sys.executable, "-m", "lm_eval", *options], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stderr or done.stdout)[-600:]
        (results,) = folder.rglob("results*.json")
        found: dict[str, Any] = json.loads(results.read_text())["results"][f"tiny_{kind}"]
        return found


@feature("lm-eval", "loglikelihood, the server's tokenizer")
def lm_eval_loglikelihood(served: Served) -> None:
    arguments = f"base_url={served.url}/v1/completions,tokenizer_backend=remote"
    more = 'doc_to_choice: "{{choices}}"\ndoc_to_target: gold'
    assert lm_eval(served, "choice", "multiple_choice", more, "local-completions", arguments)["acc,none"] == 1.0


@feature("lm-eval", "generate_until, chat")
def lm_eval_chat(served: Served) -> None:
    arguments = f"base_url={served.url}/v1/chat/completions,tokenizer_backend=None"
    more = 'doc_to_target: "{{choices[0]}}"\ngeneration_kwargs: {max_gen_toks: 8, until: ["\\n"]}'
    more += "\nmetric_list: [{metric: exact_match}]"
    found = lm_eval(served, "text", "generate_until", more, "local-chat-completions", arguments)
    assert "exact_match,none" in found
