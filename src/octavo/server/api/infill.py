"""/infill: fills a gap in a program, for editors. Format: llama.cpp's server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.outputs import CompletionOutput, OutputDelta
from octavo.sampling_params import SamplingParams
from octavo.server.api.common import caller_for, generate, new_id, openai_error, state_of
from octavo.server.api.schemas import Controls, sampling
from octavo.server.api.unsupported import INFILL, refuse
from octavo.server.generation.fill import ExtraFile, fill_prompt, fill_tokens, until_filled
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.generation.job import GenerationJob, off_loop
from octavo.server.generation.streaming import GenerationResponse, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import ApiError, bad_request
from octavo.server.http.openapi import describe
from octavo.types import Json

router = APIRouter()
MOST_FILES = 256
# Fields that chats refuse. llama.cpp's plugins for editors send `samplers` with every request, so it is ignored here.
HONOURED = ("n_predict", "repeat_penalty", "samplers")


class InfillRequest(Controls, kw_only=True):
    """input_prefix, input_suffix: the text before and after the gap. prompt: the start of the text in the gap.

    input_extra: other files. n_predict: most tokens; -1 until the model ends. response_fields: the fields to return, as
    "timings/predicted_n" for a field within another.
    """

    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: Annotated[list[ExtraFile], Meta(max_length=MOST_FILES)] | None = None
    n_predict: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    response_fields: list[str] | None = None
    max_tokens: Any = None  # refused, as n_probs: see INFILL
    n_probs: Any = None


class Timings(Struct):
    """n: tokens. ms: milliseconds."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None


class Infill(Struct):
    """stop_type: "eos", "limit" or "word" (a stop string, in stopping_word). `response_fields` may leave fields out."""

    index: int = 0
    content: str = ""
    tokens: list[int] = []
    id_slot: int = 0
    stop: bool = True
    model: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    tokens_cached: int = 0
    truncated: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    timings: Timings | None = None


@router.post("/infill", **describe(InfillRequest, Infill, stream=True))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, InfillRequest, state.settings.limits)
    refuse(body, HONOURED)
    refuse(body, reasons=INFILL)
    if body.n not in (None, 1):
        raise bad_request(f"n must be 1: a gap gets one answer; got {body.n}", "n")
    caller = caller_for(request, body)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            tokenizer, marks = runtime.tokenizer, fill_tokens(runtime, "model")
            assert tokenizer is not None
            parts = (body.input_prefix, body.input_suffix, body.input_extra or (), body.prompt)
            prompt = await off_loop(lambda: fill_prompt(tokenizer, marks, *parts), _size(body))
            params = until_filled(_params_of(body), marks)
            job = generate(request, runtime, caller, new_id("infill-"), body.model, [prompt], params, inbox)
            async with job as made:
                yield InfillRenderer(made, body.response_fields)

    return GenerationResponse(state, begin, bool(body.stream), openai_error, {"prompt": "input_prefix"})


def _size(body: InfillRequest) -> int:
    return len(body.input_prefix) + len(body.input_suffix) + sum(len(file.text) for file in body.input_extra or ())


def _params_of(body: InfillRequest) -> SamplingParams:
    more: Json = {"max_tokens": None if body.n_predict < 0 else body.n_predict}
    if body.repeat_penalty is not None:
        more["repetition_penalty"] = body.repeat_penalty
    return sampling(body, **more)


class InfillRenderer:
    """fields: the fields to return; None for all."""

    def __init__(self, job: GenerationJob, fields: list[str] | None):
        self._job = job
        self._fields = fields

    def head(self) -> bytes:
        return b""

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        if not new.text:
            return b""
        return sse.data({"index": 0, "content": new.text, "tokens": new.token_ids, "stop": False})

    def tail(self) -> bytes:
        return sse.data(self._answer(""))

    def whole(self) -> bytes:
        return sse.encode(self._answer(self._job.generations[0].output.outputs[0].text))

    def error(self, error: ApiError) -> bytes:
        return sse.data(error.body())

    def _answer(self, content: str) -> Json:
        (generation,) = self._job.generations
        answer = generation.output.outputs[0]
        made = {
            "index": 0,
            "content": content,
            "tokens": answer.token_ids if content else [],
            "id_slot": 0,
            "stop": True,
            "model": self._job.model,
            "tokens_predicted": len(answer.token_ids),
            "tokens_evaluated": self._job.num_prompt_tokens,
            "tokens_cached": self._job.num_cached_tokens,
            "truncated": False,
            **_end(answer),
            "timings": self._timings(generation),
        }
        return made if self._fields is None else _select(made, self._fields)

    def _timings(self, generation: Generation) -> Json:
        times, tokens = generation.output.metrics, generation.num_output_tokens
        started = times.first_scheduled_time or times.arrival_time
        first = times.first_token_time or times.finished_time or started
        seconds = max((times.last_token_time or first) - first, 0.0)
        return {
            "prompt_n": self._job.num_prompt_tokens - self._job.num_cached_tokens,
            "prompt_ms": (first - started) * 1e3,
            "predicted_n": tokens,
            "predicted_ms": seconds * 1e3,
            "predicted_per_second": (tokens - 1) / seconds if seconds else None,
        }


def _end(answer: CompletionOutput) -> Json:
    word = answer.stop_reason if isinstance(answer.stop_reason, str) else ""
    kind = "limit" if answer.finish_reason == "length" else "word" if word else "eos"
    return {"stop_type": kind, "stopping_word": word}


def _select(made: Json, fields: list[str]) -> Json:
    """The named fields. "a/b" is field b of object a, returned under that name, as llama.cpp does."""
    found: Json = {}
    for name in fields:
        value: Any = made
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found
