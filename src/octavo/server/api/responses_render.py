"""Formats answers of /v1/responses, whole and streamed."""

from __future__ import annotations

from octavo.answers.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart
from octavo.answers.reader import Reading
from octavo.outputs import CompletionOutput, OutputDelta
from octavo.server.api.common import new_id
from octavo.server.generation.inbox import Generation
from octavo.server.generation.job import GenerationJob
from octavo.server.http import sse
from octavo.server.http.errors import ApiError
from octavo.types import Json

TEXT_EVENTS = {"message": "response.output_text.done", "reasoning": "response.reasoning_text.done"}


class ResponsesRenderer:
    """A stream opens, fills and closes items: reasoning, text messages and function calls.

    echo: fields of the request that the response repeats.
    """

    def __init__(self, job: GenerationJob, reading: Reading | None, echo: Json):
        self._job = job
        self._reader = reading.reader() if reading else None
        self._echo = echo
        self._number = 0  # sequence number of the next event
        self._items: list[Json] = []  # the last one may still be open
        self._open = False

    def head(self) -> bytes:
        response = self._response("in_progress", [], None)
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event(kind, {"response": response}) for kind in kinds)

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        return b"".join(map(self._part, self._parts(new.text, new.finish_reason is not None)))

    def tail(self) -> bytes:
        status = self._status
        return self._close(status) + self._event(f"response.{status}", {"response": self._finished()})

    def whole(self) -> bytes:
        for part in self._parts(self._answer.text, True):
            self._part(part)
        self._close(self._status)
        return sse.encode(self._finished())

    def error(self, error: ApiError) -> bytes:
        detail = {"code": error.code or "server_error", "message": error.message}
        response = self._response("failed", self._items, None) | {"error": detail}
        return self._event("error", {**detail, "param": error.param}) + self._event(
            "response.failed", {"response": response}
        )

    @property
    def _answer(self) -> CompletionOutput:
        return self._job.generations[0].output.outputs[0]

    @property
    def _status(self) -> str:
        return "incomplete" if self._answer.finish_reason == "length" else "completed"

    def _parts(self, text: str, last: bool) -> list[Part]:
        if self._reader is None:
            return [TextPart(text)] if text else []
        return self._reader.feed(text, last)

    def _finished(self) -> Json:
        if all(item["type"] == "reasoning" for item in self._items):  # an empty answer is still one message
            self._items.append(_message(new_id("msg_"), self._status, ""))
        return self._response(self._status, self._items, self._usage())

    def _response(self, status: str, output: list[Json], usage: Json | None) -> Json:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._job.id,
            "object": "response",
            "created_at": self._job.created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "model": self._job.model,
            "output": output,
            "usage": usage,
            **self._echo,
        }

    def _usage(self) -> Json:
        prompt, made = self._job.num_prompt_tokens, self._job.num_output_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._job.num_cached_tokens},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens()},
            "total_tokens": prompt + made,
        }

    def _reasoning_tokens(self) -> int:
        tokenizer = self._job.runtime.tokenizer
        texts = [item["content"][0]["text"] for item in self._items if item["type"] == "reasoning"]
        return sum(len(tokenizer.spell(text)) for text in texts) if tokenizer else 0

    def _part(self, part: Part) -> bytes:
        match part:
            case TextPart(text=text):
                return self._add_text(text)
            case ReasoningPart(text=text):
                return self._add_reasoning(text)
            case CallStart(name=name):
                call = {"type": "function_call", "id": new_id("fc_"), "call_id": new_id("call_"), "name": name}
                return self._begin({**call, "arguments": "", "status": "in_progress"})
            case CallArguments(text=text):
                self._items[-1]["arguments"] += text
                return self._item_event("response.function_call_arguments.delta", {"delta": text})

    def _add_text(self, text: str) -> bytes:
        opened = b""
        if not (self._open and self._items[-1]["type"] == "message"):
            opened = self._begin(_message(new_id("msg_"), "in_progress", None))
            part = _text("")
            self._items[-1]["content"].append(part)
            opened += self._item_event("response.content_part.added", {"content_index": 0, "part": part})
        self._items[-1]["content"][0]["text"] += text
        delta = {"content_index": 0, "delta": text, "logprobs": []}
        return opened + self._item_event("response.output_text.delta", delta)

    def _add_reasoning(self, text: str) -> bytes:
        opened = b""
        if not (self._open and self._items[-1]["type"] == "reasoning"):
            opened = self._begin({"type": "reasoning", "id": new_id("rs_"), "summary": [], "content": []})
            part = {"type": "reasoning_text", "text": ""}
            self._items[-1]["content"].append(part)
            opened += self._item_event("response.content_part.added", {"content_index": 0, "part": part})
        self._items[-1]["content"][0]["text"] += text
        return opened + self._item_event("response.reasoning_text.delta", {"content_index": 0, "delta": text})

    def _begin(self, item: Json) -> bytes:
        closed = self._close()
        self._items.append(item)
        self._open = True
        return closed + self._event("response.output_item.added", {"output_index": len(self._items) - 1, "item": item})

    def _close(self, status: str = "completed") -> bytes:
        """Ends the open item. status: "incomplete" for the one that the answer's end cuts off."""
        if not self._open:
            return b""
        self._open, item = False, self._items[-1]
        item["status"] = status
        if item["type"] in TEXT_EVENTS:
            part = item["content"][0]
            done = {"content_index": 0, **{key: value for key, value in part.items() if key in ("text", "logprobs")}}
            ended = self._item_event(TEXT_EVENTS[item["type"]], done)
            ended += self._item_event("response.content_part.done", {"content_index": 0, "part": part})
        else:
            done = {"arguments": item["arguments"], "name": item["name"]}
            ended = self._item_event("response.function_call_arguments.done", done)
        place = {"output_index": len(self._items) - 1, "item": item}
        return ended + self._event("response.output_item.done", place)

    def _item_event(self, kind: str, more: Json) -> bytes:
        return self._event(kind, {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, **more})

    def _event(self, kind: str, more: Json) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse.named(kind, {"type": kind, "sequence_number": number, **more})


def _message(item_id: str, status: str, text: str | None) -> Json:
    content = [] if text is None else [_text(text)]
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": content}


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
