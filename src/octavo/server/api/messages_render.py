"""Formats answers of /v1/messages, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from octavo.answers.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart
from octavo.answers.reader import Reading
from octavo.outputs import CompletionOutput, OutputDelta
from octavo.server.api.chat_render import read_answer
from octavo.server.api.common import new_id
from octavo.server.generation.inbox import Generation
from octavo.server.generation.job import GenerationJob
from octavo.server.http import sse
from octavo.server.http.errors import ApiError
from octavo.types import Json

REASONS = {"stop": "end_turn", "length": "max_tokens"}


class MessagesRenderer:
    """A stream is a sequence of blocks. Each is opened, filled and closed: with reasoning, text or a tool call."""

    def __init__(self, job: GenerationJob, reading: Reading | None, error_body: Callable[[ApiError], bytes]):
        self._job = job
        self._reading = reading
        self._reader = reading.reader() if reading else None
        self._error_body = error_body
        self._block = -1  # index of the current block
        self._open: str | None = None  # its type while it is open

    def head(self) -> bytes:
        message = self._message([], None, None) | {"usage": self._usage(0)}
        return sse.named("message_start", {"type": "message_start", "message": message})

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        if self._reader is None:
            return self._part(TextPart(new.text)) if new.text else b""
        return b"".join(map(self._part, self._reader.feed(new.text, last=new.finish_reason is not None)))

    def tail(self) -> bytes:
        calls = self._reader.num_calls if self._reader else 0
        reason, sequence = stop_reason(self._answer, calls)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        made = self._job.num_output_tokens
        last = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": made}}
        return self._close() + sse.named("message_delta", last) + sse.named("message_stop", {"type": "message_stop"})

    def whole(self) -> bytes:
        read, cut_off = read_answer(self._answer.text, self._reading), self._answer.finish_reason == "length"
        blocks = [_thinking(read.reasoning)] if read.reasoning else []
        blocks += [{"type": "text", "text": read.content}] if read.content or not read.calls else []
        blocks += [
            {"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": _object(arguments, cut_off)}
            for name, arguments in read.calls
        ]
        return sse.encode(self._message(blocks, *stop_reason(self._answer, len(read.calls))))

    def error(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + self._error_body(error) + b"\n\n"

    @property
    def _answer(self) -> CompletionOutput:
        return self._job.generations[0].output.outputs[0]

    def _message(self, content: list[Json], reason: str | None, sequence: str | None) -> Json:
        return {
            "id": self._job.id,
            "type": "message",
            "role": "assistant",
            "model": self._job.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self._usage(self._job.num_output_tokens),
        }

    def _usage(self, output: int) -> Json:
        """Anthropic counts cached tokens separately from the other input tokens."""
        cached = self._job.num_cached_tokens
        fresh = self._job.num_prompt_tokens - cached
        counts = {"input_tokens": fresh, "output_tokens": output}
        return counts | {"cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}

    def _part(self, part: Part) -> bytes:
        match part:
            case TextPart(text=text):
                opened = b"" if self._open == "text" else self._begin({"type": "text", "text": ""})
                return opened + self._more({"type": "text_delta", "text": text})
            case ReasoningPart(text=text):
                opened = b"" if self._open == "thinking" else self._begin(_thinking(""))
                return opened + self._more({"type": "thinking_delta", "thinking": text})
            case CallStart(name=name):
                return self._begin({"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": {}})
            case CallArguments(text=text):
                return self._more({"type": "input_json_delta", "partial_json": text})

    def _begin(self, block: Json) -> bytes:
        closed = self._close()
        self._block, self._open = self._block + 1, block["type"]
        return closed + self._event("content_block_start", {"content_block": block})

    def _more(self, delta: Json) -> bytes:
        return self._event("content_block_delta", {"delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return self._event("content_block_stop", {})

    def _event(self, kind: str, more: Json) -> bytes:
        return sse.named(kind, {"type": kind, "index": self._block, **more})


def _thinking(text: str) -> Json:
    """A block of reasoning. Anthropic's server signs it, so that it can trust it later; ours does not read it again."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def stop_reason(answer: CompletionOutput, calls: int) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if calls and answer.finish_reason == "stop":
        return "tool_use", None
    if isinstance(answer.stop_reason, str):
        return "stop_sequence", answer.stop_reason
    return REASONS.get(answer.finish_reason or "stop", "end_turn"), None


def _object(arguments: str, cut_off: bool) -> Any:
    """Parses arguments. Invalid JSON, which a model may write without a grammar, is returned as {"raw": text}.

    Of arguments that may be cut off nothing is returned then: clients could not tell it from a whole value.
    """
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return {} if cut_off else {"raw": arguments}
