"""/v1/embeddings: texts as vectors, pooled from the hidden states of the model's last layer."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.processing.pooling import check_dimensions, choose, pooled_vector
from octavo.sampling_params import SamplingParams
from octavo.server.api.common import caller_of, generate, new_id, openai_error, state_of
from octavo.server.api.completions import PromptBody, as_prompts, encode
from octavo.server.api.schemas import Priority, Seconds, Truncation
from octavo.server.api.unsupported import EMBEDDINGS, UnsupportedInEmbeddings, refuse
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.generation.job import GenerationJob
from octavo.server.generation.streaming import GenerationResponse, NeverStreamed, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.openapi import describe
from octavo.types import F32

router = APIRouter()
MOST_TEXTS = 2048  # of a request, as OpenAI takes them
PoolingMode = Literal["mean", "last", "cls"]


class EmbeddingRequest(UnsupportedInEmbeddings, kw_only=True):
    """pooling: "mean" of all tokens' vectors, or the vector of the "last" token or of the first ("cls"). The default is
    what the model's file says, else "mean". dimensions: keep the first values only."""

    input: Annotated[PromptBody, Meta(description="A text, a list of token ids, or a list of texts or of such lists.")]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    pooling: PoolingMode | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: Truncation | None = None
    priority: Priority | None = None
    timeout: Seconds | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None


class Embedding(Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    pooling: PoolingMode
    usage: EmbeddingUsage


@router.post("/v1/embeddings", **describe(EmbeddingRequest, Embeddings))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, EmbeddingRequest, state.settings.limits)
    refuse(body, reasons=EMBEDDINGS)
    given = as_prompts(body.input, max(MOST_TEXTS, state.settings.limits.prompts), "input")
    caller = caller_of(request, body.timeout, body.priority, body.cache_salt)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            check_dimensions(body.dimensions, runtime.info.hidden_size)
            prompts, pooling = await encode(runtime, given), choose(body.pooling, runtime.info.pooling)
            params = SamplingParams(max_tokens=0, truncate_prompt_tokens=body.truncate_prompt_tokens)
            job_id = new_id("embd-")
            job = generate(request, runtime, caller, job_id, body.model, prompts, params, inbox, pooling)
            async with job as made:
                yield EmbeddingRenderer(body, made, pooling)

    return GenerationResponse(state, begin, False, openai_error, {"prompt": "input"})


class EmbeddingRenderer(NeverStreamed):
    def __init__(self, body: EmbeddingRequest, job: GenerationJob, pooling: str):
        self._body = body
        self._job = job
        self._pooling = pooling

    def whole(self) -> bytes:
        tokens = self._job.num_prompt_tokens
        return sse.encode(
            {
                "object": "list",
                "data": [self._entry(generation) for generation in self._job.generations],
                "model": self._job.model,
                "pooling": self._pooling,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    def _entry(self, generation: Generation) -> dict[str, Any]:
        vector = pooled_vector(generation.output, self._body.normalize is not False, self._body.dimensions)
        return {"object": "embedding", "index": generation.number, "embedding": self._coded(vector)}

    def _coded(self, vector: F32) -> list[float] | str:
        if self._body.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        numbers: list[float] = vector.tolist()
        return numbers
