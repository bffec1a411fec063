"""Formats answers of Ollama's API: a JSON object, or one for each part of a stream, a line each."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from octavo.answers.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart
from octavo.answers.reader import Reading
from octavo.outputs import CompletionOutput, LogprobMap, OutputDelta
from octavo.server.api import logprobs
from octavo.server.api.ollama.schemas import error_body
from octavo.server.generation.inbox import Generation
from octavo.server.generation.job import GenerationJob
from octavo.server.http import sse
from octavo.server.http.errors import ApiError
from octavo.types import Json


@dataclass(slots=True)
class New:
    """What is new in an answer. calls: the calls that are complete, in Ollama's form."""

    content: str = ""
    thinking: str = ""
    calls: list[Json] = field(default_factory=list)


def now() -> str:
    """The time in RFC 3339."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def loaded(model: str, chat: bool) -> Json:
    """The answer to a request without a prompt, which only loads the model."""
    content: Json = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": now(), **content, "done": True, "done_reason": "load"}


class OllamaRenderer:
    """chat: /api/chat's form, not /api/generate's. top_logprobs: None if no logprobs were requested.

    with_context: whether the answer ends with the token ids of the conversation.
    started, ready: `time.monotonic()` when the request came, and when its model was loaded.
    """

    def __init__(
        self,
        job: GenerationJob,
        chat: bool,
        reading: Reading | None,
        top_logprobs: int | None,
        with_context: bool,
        started: float,
        ready: float,
    ):
        self._job = job
        self._chat = chat
        self._reader = reading.reader() if reading else None
        self._calls = Calls()
        self._top_logprobs = top_logprobs
        self._with_context = with_context
        self._started = started
        self._ready = ready

    def head(self) -> bytes:
        return b""

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        made = self._part(self._read(new.text, new.finish_reason is not None))
        if new.logprobs is not None:
            made["logprobs"] = self._logprobs(new.logprobs, new.token_ids)
        empty = made in ({"response": ""}, {"message": {"role": "assistant", "content": ""}})
        return b"" if empty else _line({**self._frame(), **made, "done": False})

    def tail(self) -> bytes:
        return _line(self._last(New()))

    def whole(self) -> bytes:
        answer = self._job.generations[0].output.outputs[0]
        made = self._last(self._read(answer.text, True))
        if answer.logprobs is not None:
            made["logprobs"] = self._logprobs(answer.logprobs, answer.token_ids)
        return sse.encode(made)

    def error(self, error: ApiError) -> bytes:
        return error_body(error) + b"\n"

    def _read(self, text: str, end: bool) -> New:
        return New(text) if self._reader is None else self._calls.take(self._reader.feed(text, end), end)

    def _frame(self) -> Json:
        return {"model": self._job.model, "created_at": now()}

    def _part(self, new: New) -> Json:
        thinking: Json = {"thinking": new.thinking} if new.thinking else {}
        if not self._chat:
            return {"response": new.content, **thinking}
        calls: Json = {"tool_calls": new.calls} if new.calls else {}
        return {"message": {"role": "assistant", "content": new.content, **thinking, **calls}}

    def _last(self, new: New) -> Json:
        (generation,) = self._job.generations
        answer = generation.output.outputs[0]
        made = {**self._frame(), **self._part(new), "done": True, "done_reason": answer.finish_reason}
        if self._with_context:
            made["context"] = generation.output.prompt_token_ids + answer.token_ids
        return made | self._durations(generation, answer)

    def _durations(self, generation: Generation, answer: CompletionOutput) -> Json:
        times, end = generation.output.metrics, time.monotonic()
        begun = times.first_scheduled_time or end
        first = times.first_token_time or end
        return {
            "total_duration": nanoseconds(end - self._started),
            "load_duration": nanoseconds(self._ready - self._started),
            "prompt_eval_count": self._job.num_prompt_tokens,
            "prompt_eval_duration": nanoseconds(first - begun),
            "eval_count": len(answer.token_ids),
            "eval_duration": nanoseconds((times.last_token_time or first) - first),
        }

    def _logprobs(self, maps: list[LogprobMap], token_ids: list[int]) -> list[Json]:
        assert self._job.runtime.tokenizer is not None
        shown = logprobs.chat(maps, token_ids, self._top_logprobs or 0, self._job.runtime.tokenizer)
        found: list[Json] = shown["content"]
        return found


class Calls:
    """Collects the pieces of tool calls. Ollama sends a call at once, with its arguments as an object."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments = ""

    def take(self, parts: Sequence[Part], end: bool) -> New:
        """end: the answer has ended."""
        new = New()
        for part in parts:
            match part:
                case TextPart(text=text):
                    new.content += text
                case ReasoningPart(text=text):
                    new.thinking += text
                case CallStart(name=name):
                    new.calls += self._complete()
                    self._name = name
                case CallArguments(text=text):
                    self._arguments += text
        new.calls += self._complete() if end else []
        return new

    def _complete(self) -> list[Json]:
        name, arguments = self._name, self._arguments
        self._name, self._arguments = None, ""
        given = _object(arguments)
        return [] if name is None or given is None else [{"function": {"name": name, "arguments": given}}]


def _object(text: str) -> Json | None:
    """Arguments as an object; None if an answer was cut off within them: Ollama sends whole calls only."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _line(value: Json) -> bytes:
    return sse.encode(value) + b"\n"
