"""/v1/score and /v1/rerank: how similar texts are, as the cosine of their embeddings. Formats: vLLM, Jina, Cohere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.processing.pooling import choose, pooled_vector
from octavo.sampling_params import SamplingParams
from octavo.server.api.common import caller_of, generate, new_id, openai_error, state_of
from octavo.server.api.completions import encode
from octavo.server.api.embeddings import MOST_TEXTS, EmbeddingUsage, PoolingMode
from octavo.server.api.schemas import Priority, Seconds, Truncation
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.job import GenerationJob
from octavo.server.generation.streaming import GenerationResponse, NeverStreamed, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request
from octavo.server.http.openapi import describe

router = APIRouter()
Pairs = list[tuple[int, int]]  # the texts to compare, by index


class Pooled(Struct, kw_only=True):
    """pooling: as in an embedding."""

    model: str | None = None
    pooling: PoolingMode | None = None
    truncate_prompt_tokens: Truncation | None = None
    priority: Priority | None = None
    timeout: Seconds | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None


class ScoreRequest(Pooled, kw_only=True):
    """A single text_1 is compared with every text_2; a list of them with the text_2 at the same place."""

    text_1: str | Annotated[list[str], Meta(min_length=1)]
    text_2: str | Annotated[list[str], Meta(min_length=1)]


class Document(Struct):
    text: str


class RerankRequest(Pooled, kw_only=True):
    """top_n: how many results to return, the best first; 0 returns all. return_documents: with their texts."""

    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=0)] | None = None
    return_documents: bool | None = None


class Score(Struct):
    index: int
    object: Literal["score"]
    score: float


class Scores(Struct):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: EmbeddingUsage


class Ranked(Struct):
    index: int
    relevance_score: float
    document: Document | None


class Ranking(Struct):
    id: str
    model: str
    results: list[Ranked]
    usage: EmbeddingUsage


@router.post("/v1/score", **describe(ScoreRequest, Scores))
@router.post("/score", include_in_schema=False)
async def score(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, ScoreRequest, state.settings.limits)
    left, right = ([text] if isinstance(text, str) else text for text in (body.text_1, body.text_2))
    if len(left) not in (1, len(right)):
        raise bad_request(f"text_1 has {len(left)} texts: it must have 1, or {len(right)} as text_2", "text_1")
    pairs = [(0 if len(left) == 1 else i, len(left) + i) for i in range(len(right))]
    names = [*_numbered("text_1", body.text_1), *_numbered("text_2", body.text_2)]

    def answer(job: GenerationJob, values: list[float]) -> Struct:
        data = [Score(index, "score", value) for index, value in enumerate(values)]
        return Scores(job.id, "list", job.created, job.model, data, _usage(job))

    return _compare(request, body, [*left, *right], pairs, answer, names)


@router.post("/v1/rerank", **describe(RerankRequest, Ranking))
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
async def rerank(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, RerankRequest, state.settings.limits)
    texts = [each if isinstance(each, str) else each.text for each in body.documents]

    def answer(job: GenerationJob, values: list[float]) -> Struct:
        best = sorted(range(len(values)), key=lambda index: -values[index])[: body.top_n or None]
        shown = body.return_documents is not False
        results = [Ranked(i, values[i], Document(texts[i]) if shown else None) for i in best]
        return Ranking(job.id, job.model, results, _usage(job))

    names = ["query", *_numbered("documents", texts)]
    return _compare(request, body, [body.query, *texts], [(0, i + 1) for i in range(len(texts))], answer, names)


def _numbered(field: str, texts: str | list[str]) -> list[str]:
    """The names of texts in errors."""
    return [field] if isinstance(texts, str) else [f"{field}[{i}]" for i in range(len(texts))]


def _compare(
    request: Request,
    body: Pooled,
    texts: list[str],
    pairs: Pairs,
    answer: Callable[[GenerationJob, list[float]], Struct],
    names: list[str],
) -> Response:
    """Embeds the texts and answers with the cosine of each pair. names: of the texts, in errors."""
    state = state_of(request)
    if len(texts) > MOST_TEXTS:
        field = names[-1].partition("[")[0]
        raise bad_request(f"{field}: at most {MOST_TEXTS} texts may be sent at once; got {len(texts)}", field)
    caller = caller_of(request, body.timeout, body.priority, body.cache_salt)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            prompts = await encode(runtime, list(texts))
            params = SamplingParams(max_tokens=0, truncate_prompt_tokens=body.truncate_prompt_tokens)
            job_id = new_id("score-")
            pooling = choose(body.pooling, runtime.info.pooling)
            job = generate(request, runtime, caller, job_id, body.model, prompts, params, inbox, pooling)
            async with job as made:
                yield _Renderer(made, pairs, answer)

    return GenerationResponse(state, begin, False, openai_error, {f"prompt[{i}]": name for i, name in enumerate(names)})


class _Renderer(NeverStreamed):
    def __init__(self, job: GenerationJob, pairs: Pairs, answer: Callable[[GenerationJob, list[float]], Struct]):
        self._job = job
        self._pairs = pairs
        self._answer = answer

    def whole(self) -> bytes:
        vectors = [pooled_vector(generation.output, normalize=True) for generation in self._job.generations]
        return sse.encode(self._answer(self._job, [float(vectors[a] @ vectors[b]) for a, b in self._pairs]))


def _usage(job: GenerationJob) -> EmbeddingUsage:
    return EmbeddingUsage(job.num_prompt_tokens, job.num_prompt_tokens)
