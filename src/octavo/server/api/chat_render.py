"""Formats answers of /v1/chat/completions, whole and streamed."""

from __future__ import annotations

from octavo.answers.parts import Answer, CallArguments, CallStart, Part, ReasoningPart, TextPart
from octavo.answers.reader import Reading
from octavo.outputs import CompletionOutput, LogprobMap, OutputDelta
from octavo.server.api import logprobs
from octavo.server.api.best_of import best
from octavo.server.api.common import new_id
from octavo.server.api.schemas import Usage, usage_of
from octavo.server.generation.inbox import Generation
from octavo.server.generation.job import GenerationJob
from octavo.server.http import sse
from octavo.server.http.errors import ApiError
from octavo.types import Json


class ChatRenderer:
    """top_logprobs: None if no logprobs were requested. with_usage: whether a stream ends with the usage.

    reading: None if answers are plain text. shows_reasoning: whether reasoning is returned; otherwise it is dropped.
    """

    def __init__(
        self,
        job: GenerationJob,
        answers: int,
        reading: Reading | None,
        top_logprobs: int | None,
        with_usage: bool,
        shows_reasoning: bool = True,
    ):
        self._job = job
        self._answers = answers
        self._top_logprobs = top_logprobs
        self._with_usage = with_usage
        self._shows_reasoning = shows_reasoning
        self._reading = reading
        self._readers = [reading.reader() for _ in range(answers)] if reading else []
        frame = {"id": job.id, "object": "chat.completion.chunk", "created": job.created, "model": job.model}
        self._frame = frame
        # Nearly all chunks of a stream differ only in their text, so the rest is encoded once.
        self._before = [
            b"data: " + sse.encode(frame)[:-1] + b',"choices":[{"index":%d,"delta":{"content":' % index
            for index in range(answers)
        ]
        self._after = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def head(self) -> bytes:
        first = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, first) for index in range(self._answers))

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        if self._readers:
            return self._read(new)
        if new.finish_reason is None and new.logprobs is None:
            return self._before[new.index] + sse.encode(new.text) + self._after if new.text else b""
        content = {"content": new.text} if new.text or new.logprobs else {}
        return self._chunk(new.index, content, self._shown(new), new.finish_reason, new.stop_reason)

    def tail(self) -> bytes:
        last = {**self._frame, "choices": [], "usage": usage_of(self._job)}
        return (sse.data(last) if self._with_usage else b"") + sse.DONE

    def whole(self) -> bytes:
        (generation,) = self._job.generations
        answers = best(generation.output.outputs, self._answers)
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        frame = {**self._frame, "object": "chat.completion", "choices": choices}
        total: Usage = usage_of(self._job)
        return sse.encode({**frame, "usage": total})

    def error(self, error: ApiError) -> bytes:
        return sse.data(error.body()) + sse.DONE

    def _read(self, new: OutputDelta) -> bytes:
        reader = self._readers[new.index]
        parts = reader.feed(new.text, last=new.finish_reason is not None)
        hidden = () if self._shows_reasoning else (ReasoningPart,)
        chunks = [self._chunk(new.index, _part(part)) for part in parts if not isinstance(part, hidden)]
        if new.logprobs is not None:  # logprobs belong to tokens, not to parts, so they get their own chunk
            chunks.insert(0, self._chunk(new.index, {}, self._shown(new)))
        if new.finish_reason is not None:
            reason = finish_reason(new.finish_reason, reader.num_calls)
            chunks.append(self._chunk(new.index, {}, None, reason, new.stop_reason))
        return b"".join(chunks)

    def _shown(self, new: OutputDelta) -> Json | None:
        return self._logprobs(new.logprobs, new.token_ids)

    def _logprobs(self, maps: list[LogprobMap] | None, token_ids: list[int]) -> Json | None:
        if self._top_logprobs is None or maps is None:
            return None
        assert self._job.runtime.tokenizer is not None
        return logprobs.chat(maps, token_ids, self._top_logprobs, self._job.runtime.tokenizer)

    def _chunk(
        self,
        index: int,
        delta: Json,
        shown: Json | None = None,
        reason: str | None = None,
        stop: int | str | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}
        if reason is not None:
            choice["stop_reason"] = stop
        return sse.data({**self._frame, "choices": [choice]})

    def _choice(self, index: int, answer: CompletionOutput) -> Json:
        message, calls = read_message(answer.text, self._reading, self._shows_reasoning)
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.logprobs, answer.token_ids),
            "finish_reason": finish_reason(answer.finish_reason or "stop", calls),
            "stop_reason": answer.stop_reason,
        }


def finish_reason(reason: str, calls: int) -> str:
    return "tool_calls" if calls and reason == "stop" else reason


def _part(part: Part) -> Json:
    match part:
        case TextPart(text=text):
            return {"content": text}
        case ReasoningPart(text=text):
            return {"reasoning_content": text}
        case CallStart(index=index, name=name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": new_id("call_"), "type": "function", "function": function}]}
        case CallArguments(index=index, text=text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def read_message(text: str, reading: Reading | None, shows_reasoning: bool) -> tuple[Json, int]:
    """Returns a whole answer as a message, and its number of tool calls."""
    answer = read_answer(text, reading)
    message: Json = {"role": "assistant", "content": answer.content or ("" if not answer.calls else None)}
    if answer.reasoning and shows_reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": new_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in answer.calls
        ]
    return message, len(answer.calls)


def read_answer(text: str, reading: Reading | None) -> Answer:
    return Answer(text) if reading is None else reading.read(text)
