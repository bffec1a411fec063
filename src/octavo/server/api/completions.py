"""/v1/completions: continues a text."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.outputs import CompletionOutput, LogprobMap, OutputDelta
from octavo.processing.inputs import Tokens
from octavo.sampling_params import SamplingParams
from octavo.server.api import logprobs
from octavo.server.api.best_of import best, check_best_of
from octavo.server.api.common import caller_for, check_answers, generate, new_id, openai_error, state_of
from octavo.server.api.schemas import Answers, Controls, Count, TopLogprobs, Usage, sampling, structure_field, usage_of
from octavo.server.api.unsupported import refuse
from octavo.server.generation.fill import fill_prompt, fill_tokens, until_filled
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.generation.job import GenerationJob, off_loop
from octavo.server.generation.streaming import GenerationResponse, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import ApiError, bad_request
from octavo.server.http.openapi import describe
from octavo.server.runtime import Runtime
from octavo.tokenizer import Detokenizer, Tokenizer, TokenTexts

router = APIRouter()
HONOURED = ("add_special_tokens", "echo", "prompt_logprobs", "suffix")
PromptBody = str | list[Any]


class CompletionRequest(Controls, kw_only=True):
    """prompt: a text, token ids, or a list of either."""

    prompt: Annotated[PromptBody, Meta(description="A text, a list of token ids, or a list of texts or of such lists.")]
    max_tokens: Count | None = None
    logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Answers | None = None
    add_special_tokens: Annotated[bool, Meta(description="Only true is supported.")] | None = None


class CompletionLogprobs(Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None


class Completion(Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None


@router.post("/v1/completions", **describe(CompletionRequest, Completion, stream=True))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, CompletionRequest, state.settings.limits)
    check(body, state.settings.limits.answers)
    given = as_prompts(body.prompt, state.settings.limits.prompts)
    caller = caller_for(request, body)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            prompts, params = await encode(runtime, given, body.suffix or None), params_of(body)
            if body.suffix:
                params = until_filled(params, fill_tokens(runtime, "suffix"))
            job = generate(request, runtime, caller, new_id("cmpl-"), body.model, prompts, params, inbox)
            async with job as made:
                yield CompletionRenderer(body, made)

    return GenerationResponse(
        state, begin, bool(body.stream), openai_error, {"structured_outputs": structure_field(body)}
    )


def check(body: CompletionRequest, most_answers: int) -> None:
    refuse(body, HONOURED)
    if body.add_special_tokens is False:
        raise bad_request("add_special_tokens: send the token ids that /tokenize gives", "add_special_tokens")
    check_answers(body.n, most_answers)
    check_best_of(body.best_of, body.n, body.stream, most_answers)
    if body.suffix and body.echo:
        raise bad_request("echo and suffix do not go together", "echo")


def params_of(body: CompletionRequest) -> SamplingParams:
    most = 16 if body.max_tokens is None else body.max_tokens
    made, prompt_logprobs = body.logprobs, body.prompt_logprobs
    if body.echo and made is not None and prompt_logprobs is None:
        prompt_logprobs = made
    more: dict[str, Any] = {}
    if body.best_of is not None:
        more, made = {"n": body.best_of}, made or 0  # answers are compared by their logprobs
    return sampling(body, max_tokens=most, logprobs=made, prompt_logprobs=prompt_logprobs, **more)


def as_prompts(prompt: PromptBody, most: int, name: str = "prompt") -> list[str | list[int]]:
    """Converts any of the four forms of a prompt to a list of prompts. name: the field, for errors. Raises ApiError."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(_is_id(item) for item in prompt):
        return [prompt]
    if not prompt or not all(isinstance(item, str) or _is_ids(item) for item in prompt):
        raise bad_request(f"{name}: a text, token ids, or a list of texts or of lists of token ids is needed", name)
    if len(prompt) > most:
        raise bad_request(f"{name}: at most {most} may be sent at once; got {len(prompt)}", name)
    return prompt


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


async def encode(runtime: Runtime, prompts: list[str | list[int]], suffix: str | None = None) -> list[Tokens]:
    """Tokenises prompts. suffix: what follows the answer, for fill-in-the-middle. Raises ApiError."""
    maker, tokenizer = runtime.maker, runtime.tokenizer
    assert maker is not None and tokenizer is not None
    if suffix is None:
        return await off_loop(lambda: list(maker.tokens_of(list(prompts), "prompt")), sum(map(len, prompts)))
    marks, after = fill_tokens(runtime, "suffix"), suffix
    size = sum(map(len, prompts)) + len(suffix)
    return await off_loop(lambda: [fill_prompt(tokenizer, marks, prompt, after) for prompt in prompts], size)


class CompletionRenderer:
    """Each choice is one answer to one prompt. Prompt 0's n answers come first."""

    def __init__(self, body: CompletionRequest, job: GenerationJob):
        self._body = body
        self._job = job
        self._n = body.n or 1
        self._writers: dict[int, logprobs.CompletionLogprobs] = {}  # of the choices that have begun

    def head(self) -> bytes:
        return b""

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        if not (new.text or new.finish_reason or new.logprobs):
            return b""
        index = generation.number * self._n + new.index
        return sse.data(self._frame([self._choice(index, generation, new)]))

    def tail(self) -> bytes:
        last = sse.data(self._frame([], usage_of(self._job))) if self._body.with_usage else b""
        return last + sse.DONE

    def whole(self) -> bytes:
        answers = [(made, answer) for made in self._job.generations for answer in best(made.output.outputs, self._n)]
        choices = [self._choice(index, *each) for index, each in enumerate(answers)]
        return sse.encode(self._frame(choices, usage_of(self._job)))

    def error(self, error: ApiError) -> bytes:
        return sse.data(error.body()) + sse.DONE

    def _choice(self, index: int, generation: Generation, new: CompletionOutput | OutputDelta) -> dict[str, Any]:
        """Formats an answer or a part of it. Before its first part stands the prompt, if it is echoed."""
        output, text = generation.output, new.text
        maps: list[LogprobMap | None] = list(new.logprobs or [])
        ids = new.token_ids
        if first := index not in self._writers:
            self._writers[index] = self._writer(generation)
        if first and self._body.echo:
            text = self._prompt_text(generation) + text
            maps, ids = (output.prompt_logprobs or []) + maps, output.prompt_token_ids + ids
        shown, most = None, self._body.logprobs
        if most is not None:
            shown = self._writers[index].add(maps, ids, most, text if first else "")
        made = {
            "index": index,
            "text": text,
            "logprobs": shown,
            "finish_reason": new.finish_reason,
            "stop_reason": new.stop_reason,
        }
        if first and self._body.prompt_logprobs is not None and output.prompt_logprobs is not None:
            made["prompt_logprobs"] = [logprobs.ranked(entry) for entry in output.prompt_logprobs]
        return made

    @property
    def _tokenizer(self) -> Tokenizer:
        assert self._job.runtime.tokenizer is not None
        return self._job.runtime.tokenizer

    def _prompt_text(self, generation: Generation) -> str:
        """A character that the prompt's ids leave incomplete belongs to the answer, which completes it."""
        output = generation.output
        if output.prompt is not None:
            return output.prompt
        return Detokenizer(TokenTexts(self._tokenizer)).add(output.prompt_token_ids)

    def _writer(self, generation: Generation) -> logprobs.CompletionLogprobs:
        request = generation.request
        after = None if self._body.echo else request.prompt_token_ids
        return logprobs.CompletionLogprobs(self._tokenizer, after, request.params.skip_special_tokens)

    def _frame(self, choices: list[dict[str, Any]], total: Usage | None = None) -> dict[str, Any]:
        job = self._job
        frame = {"id": job.id, "object": "text_completion", "created": job.created, "model": job.model}
        return frame | {"choices": choices, "usage": total}
