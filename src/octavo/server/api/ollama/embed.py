"""Ollama's /api/embed, and the older /api/embeddings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.processing.inputs import Tokens
from octavo.processing.pooling import check_dimensions, choose, pooled_vector
from octavo.sampling_params import SamplingParams
from octavo.server.api.common import caller_of, generate, new_id, state_of
from octavo.server.api.completions import encode
from octavo.server.api.embeddings import MOST_TEXTS
from octavo.server.api.ollama.models import resolve_name
from octavo.server.api.ollama.render import nanoseconds
from octavo.server.api.ollama.schemas import OllamaError, error_body
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.job import GenerationJob
from octavo.server.generation.streaming import GenerationResponse, NeverStreamed, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.openapi import describe

router = APIRouter()


class EmbedRequest(Struct, kw_only=True):
    """truncate: cut texts that are longer than the context (the default) instead of refusing them."""

    input: str | Annotated[list[str], Meta(min_length=1, max_length=MOST_TEXTS)]
    model: str | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    keep_alive: str | float | None = None


class Embedded(Struct):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OldEmbedRequest(Struct, kw_only=True):
    prompt: str
    model: str | None = None
    keep_alive: str | float | None = None


class OldEmbedded(Struct):
    embedding: list[float]


@router.post("/api/embed", **describe(EmbedRequest, Embedded, errors=OllamaError))
async def embed(request: Request) -> Response:
    body = await read(request, EmbedRequest, state_of(request).settings.limits, any_type=True)
    texts = [body.input] if isinstance(body.input, str) else body.input
    started = time.monotonic()

    def answer(job: GenerationJob, ready: float) -> Struct:
        vectors = [pooled_vector(made.output, True, body.dimensions).tolist() for made in job.generations]
        times = (nanoseconds(time.monotonic() - started), nanoseconds(ready - started))
        return Embedded(job.model, vectors, *times, job.num_prompt_tokens)

    return _embed(request, body.model, texts, body.truncate is not False, answer, "input", body.dimensions)


@router.post("/api/embeddings", **describe(OldEmbedRequest, OldEmbedded, errors=OllamaError))
async def embed_one(request: Request) -> Response:
    body = await read(request, OldEmbedRequest, state_of(request).settings.limits, any_type=True)

    def answer(job: GenerationJob, ready: float) -> Struct:
        return OldEmbedded(pooled_vector(job.generations[0].output, normalize=False).tolist())

    return _embed(request, body.model, [body.prompt], True, answer, "prompt")


def _embed(
    request: Request,
    model: str | None,
    texts: list[str],
    truncate: bool,
    answer: Callable[[GenerationJob, float], Struct],
    field: str,
    dimensions: int | None = None,
) -> Response:
    state, caller = state_of(request), caller_of(request)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(resolve_name(state.pool, model), caller.remaining) as runtime:
            ready, info = time.monotonic(), runtime.info
            check_dimensions(dimensions, info.hidden_size)
            pooling = choose(None, info.pooling)
            prompts = await encode(runtime, list(texts))
            if truncate:
                most = min(info.max_model_len, info.capacity)
                prompts = [Tokens(prompt.ids[:most], prompt.text) for prompt in prompts]
            params = SamplingParams(max_tokens=0)
            job = generate(request, runtime, caller, new_id("embd-"), model, prompts, params, inbox, pooling)
            async with job as made:
                yield _Renderer(lambda: answer(made, ready))

    return GenerationResponse(state, begin, False, error_body, {"prompt": field})


class _Renderer(NeverStreamed):
    def __init__(self, answer: Callable[[], Struct]):
        self._answer = answer

    def whole(self) -> bytes:
        return sse.encode(self._answer())
