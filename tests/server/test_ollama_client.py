"""Ollama's Python client against our server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octavo.answers.parts import CallArguments, CallStart, TextPart
from octavo.server.api.ollama.render import Calls, New
from octavo.server.api.ollama.schemas import OllamaGenerateRequest, Options, sampling
from octavo.server.http.body import decode
from octavo.server.http.errors import ApiError
from tests.server.harness import Server, serving
from tests.server.streams import events
from tests.tiny import Tiny, write_tiny_gguf

ollama = pytest.importorskip("ollama")
FEW = {"num_predict": 12, "temperature": 0}
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(smollm: Server) -> Any:
    return ollama.Client(smollm.url)


def expected(server: Server, messages: list[dict[str, str]], **more: Any) -> str:
    """The answer of the OpenAI API with Ollama's defaults."""
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, **more}
    text: str = server.post("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]
    return text


def test_chat(smollm: Server, client: Any) -> None:
    answer = client.chat("smollm2", HELLO, options=FEW)
    assert answer.message.content == expected(smollm, HELLO) and answer.message.role == "assistant"
    assert answer.done and answer.done_reason == "length" and answer.eval_count == 12 and answer.prompt_eval_count > 10
    assert 0 < answer.eval_duration < answer.total_duration and answer.prompt_eval_duration > 0
    assert answer.model == "smollm2" and answer.load_duration < answer.total_duration


def test_chat_streamed(client: Any) -> None:
    whole = client.chat("smollm2", HELLO, options=FEW)
    parts = list(client.chat("smollm2:latest", HELLO, options=FEW, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content and len(parts) > 5
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 12 and parts[-1].done_reason == "length"


def test_generate(smollm: Server, client: Any) -> None:
    answer = client.generate("smollm2", "Say hello.", system="Be brief.", options=FEW)
    assert answer.response == expected(smollm, HELLO)
    parts = list(client.generate("smollm2", "Say hello.", system="Be brief.", options=FEW, stream=True))
    assert "".join(part.response for part in parts) == answer.response
    assert parts[-1].context == answer.context and len(answer.context) == answer.prompt_eval_count + 12
    more = client.generate("smollm2", "Again.", context=answer.context, options=FEW)
    assert more.context[: len(answer.context)] == answer.context and more.prompt_eval_count > len(answer.context)


def test_generate_raw(smollm: Server, client: Any) -> None:
    answer = client.generate("smollm2", "Once upon a time", raw=True, options=FEW)
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    assert answer.response == smollm.post("/v1/completions", body)[1]["choices"][0]["text"] and answer.context is None


def test_format(client: Any) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    answer = client.chat("smollm2", [{"role": "user", "content": "Age?"}], format=schema, options={"temperature": 0})
    assert answer.message.content.lstrip().startswith("{") and '"age"' in answer.message.content
    assert client.generate("smollm2", "An object", format="json", options=FEW).response.lstrip().startswith("{")


def test_tools(client: Any) -> None:
    """A call is an object at once, in a stream too. The earlier call and its result are in the prompt."""
    call = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    question = {"role": "user", "content": "The weather in Rome?"}
    history = [
        question,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "22 degrees"},
    ]
    with_history = client.chat("smollm2", history, tools=[WEATHER], options=FEW)
    alone = client.chat("smollm2", [question], tools=[WEATHER], options=FEW)
    assert with_history.prompt_eval_count > alone.prompt_eval_count + 20


def test_a_call_that_is_cut_off_is_left_out() -> None:
    calls = Calls()
    assert calls.take([CallStart(0, "f"), CallArguments(0, '{"a": ')], end=True) == New()


def test_a_call_is_sent_at_once() -> None:
    """Ollama's clients read a call's arguments as an object, so its pieces are collected, in a stream too."""
    calls = Calls()
    assert calls.take([TextPart("Let me see."), CallStart(0, "a")], False) == New("Let me see.")
    assert calls.take([CallArguments(0, '{"x": ')], False) == New()
    made = calls.take([CallArguments(0, "1}"), CallStart(1, "b"), CallArguments(1, "{}")], False)
    assert made == New(calls=[{"function": {"name": "a", "arguments": {"x": 1}}}])
    assert calls.take([TextPart("!")], True) == New("!", calls=[{"function": {"name": "b", "arguments": {}}}])
    assert calls.take([], True) == New()


def test_logprobs(client: Any) -> None:
    answer = client.generate("smollm2", "Hi", options=FEW, logprobs=True, top_logprobs=2)
    assert len(answer.logprobs) == answer.eval_count and len(answer.logprobs[0].top_logprobs) == 2
    assert answer.logprobs[0].logprob == answer.logprobs[0].top_logprobs[0].logprob < 0


def test_embed(smollm: Server, client: Any) -> None:
    answer = client.embed("smollm2", ["Hello", "world"])
    given = smollm.post("/v1/embeddings", {"input": ["Hello", "world"]})[1]
    assert [list(each) for each in answer.embeddings] == [each["embedding"] for each in given["data"]]
    assert answer.prompt_eval_count == given["usage"]["prompt_tokens"]
    old = client.embeddings("smollm2", "Hello").embedding
    raw = smollm.post("/v1/embeddings", {"input": "Hello", "normalize": False})[1]["data"][0]["embedding"]
    assert list(old) == raw


def test_embed_cuts_long_texts(coder: Server) -> None:
    client = ollama.Client(coder.url)
    cut, fits = (client.embed("coder", "ab" * count) for count in (4000, 256))
    assert cut.embeddings == fits.embeddings and cut.prompt_eval_count == 512
    with pytest.raises(ollama.ResponseError, match="512"):
        client.embed("coder", "ab" * 4000, truncate=False)


def test_models(client: Any) -> None:
    (model,) = client.list().models
    assert model.model == "smollm2:latest" and model.size > 90 << 20 and len(model.digest) == 64
    assert model.details.family == "llama" and model.details.quantization_level == "Q4_1"
    assert model.details.parameter_size == "134.52M"
    (running,) = client.ps().models
    assert running.model == "smollm2:latest" and running.context_length == 2048
    shown = client.show("smollm2")
    assert shown.modelinfo["llama.context_length"] == 8192 and shown.capabilities == ["completion", "tools"]
    assert "<|im_start|>" in shown.template and 'stop "<|im_end|>"' in shown.parameters


def test_a_request_without_a_prompt_loads_the_model(client: Any) -> None:
    assert client.generate("smollm2", "").done_reason == "load"
    assert client.chat("smollm2", []).done_reason == "load"


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/chat", {"model": "none", "messages": HELLO}, "there is no model 'none'"),
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}, "images"),
        ("/api/generate", {"prompt": "a", "images": ["aGk="]}, "images"),
        ("/api/generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "--chat-template"),
        ("/api/generate", {"prompt": "a", "suffix": "b"}, "fill-in-the-middle"),
        ("/api/generate", {"prompt": "a", "raw": True, "context": [1 << 30]}, "token ids"),
        ("/api/generate", {"prompt": "a", "options": {"temperature": -1}}, "options.temperature"),
        ("/api/generate", {"prompt": "a", "options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/generate", {"prompt": "a", "format": "xml"}, "format"),
        ("/api/generate", {"prompt": "a", "format": {"type": "nonsense"}}, "format"),
        ("/api/generate", {"prompt": "word " * 4000}, "2048"),
        ("/api/embed", {"input": "a", "dimensions": 5000}, "dimensions"),
        ("/api/chat", {"model": "smollm2", "messages": HELLO, "think": True}, '"smollm2" does not support thinking'),
        ("/api/generate", {"prompt": "a", "think": "high"}, "does not support thinking"),
        ("/api/generate", {"prompt": "a", "think": "much"}, "think"),
        ("/api/generate", {"prompt": "a", "options": {"top_p": 1.5}}, "options.top_p"),
        ("/api/show", {}, "model is required"),
        ("/api/show", {"name": ""}, "model is required"),
        ("/api/pull", {"model": "llama3"}, "there is no /api/pull"),
    ],
)
def test_errors_are_in_ollamas_form(smollm: Server, path: str, body: dict[str, Any], text: str) -> None:
    status, answer = smollm.post(path, body)
    assert status in (400, 404) and list(answer) == ["error"] and text in answer["error"], answer


def test_options() -> None:
    """Defaults are Ollama's, and penalties over a window are refused unless they have no effect."""
    params = sampling(OllamaGenerateRequest())
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.8, 40, 0.9, None)
    given = Options(num_predict=-2, seed=-1, stop="a", repeat_last_n=64, repeat_penalty=1.0)
    params = sampling(OllamaGenerateRequest(options=given))
    assert (params.max_tokens, params.seed, params.stop, params.repetition_penalty) == (None, None, ("a",), 1.0)
    assert sampling(OllamaGenerateRequest(options=Options(repeat_penalty=1.5))).repetition_penalty == 1.5
    params = sampling(OllamaGenerateRequest(options=Options(top_p=0, num_predict=0)))
    assert (params.top_k, params.top_p, params.max_tokens) == (1, 1.0, None)  # the best token alone, without a limit
    floats = b'{"options": {"top_k": 20.0, "seed": 7.9, "num_predict": 5.0, "top_p": null}}'
    params = sampling(decode(floats, OllamaGenerateRequest))
    assert (params.top_k, params.seed, params.max_tokens, params.top_p) == (20, 7, 5, 0.9)
    off = Options(repeat_penalty=1.5, repeat_last_n=0)
    assert sampling(OllamaGenerateRequest(options=off)).repetition_penalty == 1.0
    with pytest.raises(ApiError, match="repeat_last_n"):
        sampling(OllamaGenerateRequest(options=Options(repeat_penalty=1.5, repeat_last_n=64)))


def test_thinking(tmp_path: Path, logs: Path) -> None:
    """A chat template that reasons makes a model that can think. `think: false` is accepted by every model."""
    template = "{% if enable_thinking %}<think>{% endif %}{{ messages[0].content }}{{ reasoning_effort }}"
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny())
    with serving(path, "--chat-template", template, folder=logs) as server:
        assert "thinking" in server.post("/api/show", {"model": "tiny"})[1]["capabilities"]
        body = {"messages": HELLO[1:], "stream": False, "options": FEW}
        for think in (True, False, "low"):
            assert server.post("/api/chat", body | {"think": think})[0] == 200, think


def test_a_stream_of_lines_has_no_comments(coder: Server) -> None:
    """Keep-alive comments belong to server-sent events: a client would read one as broken JSON."""
    parts = events(coder, "/api/generate", {"prompt": "def", "suffix": "x", "options": FEW})
    assert parts[-1]["done"] and "".join(part["response"] for part in parts)


def test_keys(tiny_model: Any, logs: Any) -> None:
    with serving(tiny_model, "--api-key", "secret", folder=logs) as server:
        with pytest.raises(ollama.ResponseError, match="needs an API key"):
            ollama.Client(server.url).list()
        assert ollama.Client(server.url, headers={"authorization": "Bearer secret"}).list().models
        assert server.get("/docs")[0] == 200 and server.get("/openapi.json")[0] == 401
