"""Runs the prompts of one HTTP request: checks, admits and sends them to the engine, and cleans up after them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from octavo.errors import OctavoError
from octavo.processing.inputs import Tokens
from octavo.sampling_params import SamplingParams
from octavo.server.admission import Ticket
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.http import errors
from octavo.server.http.errors import ApiError, past_deadline
from octavo.server.http.keys import ApiKey
from octavo.server.runtime import Runtime
from octavo.types import Request

Result = TypeVar("Result")
LONG_TEXT = 4096  # characters; longer texts are tokenised in a thread: they would block the event loop for 1 ms or more


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a request. deadline: monotonic time after which it no longer waits."""

    key: ApiKey
    request_id: str
    deadline: float | None = None
    priority: int = 0
    cache_salt: str = ""

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline; None without one. Raises ApiError (408) if it has passed."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise past_deadline(0)
        return left

    @property
    def salt(self) -> str:
        """Requests share cached prefixes only if their API key and their `cache_salt` are equal."""
        key = self.key.salt if self.key.digest else ""
        return f"{key}\x00{self.cache_salt}" if key or self.cache_salt else ""


@dataclass(eq=False, slots=True)
class GenerationJob:
    """The generations of one HTTP request. model: the name the client used."""

    id: str
    model: str
    runtime: Runtime
    created: int = field(default_factory=lambda: int(time.time()))
    generations: list[Generation] = field(default_factory=list)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(each.request.prompt_token_ids) for each in self.generations)

    @property
    def num_output_tokens(self) -> int:
        return sum(each.num_output_tokens for each in self.generations)

    @property
    def num_cached_tokens(self) -> int:
        return sum(each.output.num_cached_tokens for each in self.generations)


async def off_loop(work: Callable[[], Result], size: int) -> Result:
    """Runs `work`, in a thread if its input has LONG_TEXT characters or more. Raises ApiError for a user's mistake."""
    try:
        if size < LONG_TEXT:
            return work()
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except OctavoError as error:
        raise errors.from_octavo(error) from error


@asynccontextmanager
async def run(
    job: GenerationJob,
    caller: Caller,
    prompts: list[Tokens],
    params: SamplingParams,
    inbox: Inbox,
    pooling: str | None = None,
) -> AsyncIterator[GenerationJob]:
    """Sends the prompts to the engine. On leaving the block, aborts the generations that still run.

    Raises ApiError: 400 for a request that cannot run, 429 if the queue is full, 408 if the deadline passes.
    """
    runtime = job.runtime
    requests = [_request(job, caller, number, prompt, params, pooling) for number, prompt in enumerate(prompts)]
    for number, request in enumerate(requests):
        try:
            runtime.check_length(request)
        except ApiError as error:
            raise (error if len(requests) == 1 else error.of_prompt(number)) from error.__cause__
    ticket = _ticket(caller, requests, runtime.info.max_model_len)
    await runtime.admission.enter(ticket, caller.remaining)
    try:
        client = runtime.client
        if client is None or not runtime.ready:
            raise errors.unavailable("the engine has just failed; it is started again")
        for number, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            whole = len(request.prompt_token_ids) == len(prompt.ids)  # an echo shows the tokens that are left
            job.generations.append(client.add(request, prompt.text if whole else None, inbox, number))
        try:
            yield job
        finally:
            client.abort(job.generations)
    finally:
        runtime.admission.leave(ticket)


def _request(
    job: GenerationJob, caller: Caller, number: int, prompt: Tokens, params: SamplingParams, pooling: str | None
) -> Request:
    maker = job.runtime.maker
    assert maker is not None
    salted = Tokens(prompt.ids, prompt.text, caller.salt)
    extra: dict[str, Any] = {"priority": caller.priority, "deadline": caller.deadline, "pooling": pooling}
    try:
        return maker.make(salted, params, f"{job.id}/{number}", **extra)
    except OctavoError as error:
        raise errors.from_octavo(error) from error


def _ticket(caller: Caller, requests: list[Request], max_model_len: int) -> Ticket:
    sequences = sum(request.params.n for request in requests)
    return Ticket(caller.key, caller.priority, sequences, sum(_most_tokens(each, max_model_len) for each in requests))


def _most_tokens(request: Request, max_model_len: int) -> int:
    """Estimates the tokens of a request. Without max_tokens, each answer counts as a quarter of the context."""
    prompt, wanted = len(request.prompt_token_ids), request.params.max_tokens
    if request.pooling is not None:
        return prompt
    return prompt + request.params.n * (max_model_len // 4 if wanted is None else wanted)
