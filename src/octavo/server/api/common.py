"""Helpers shared by the routes that generate: the caller, ids, and logging of a generation."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator

from starlette.requests import Request

from octavo.processing.inputs import Tokens
from octavo.sampling_params import SamplingParams
from octavo.server.api.schemas import Controls
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.job import Caller, GenerationJob, run
from octavo.server.http.errors import ApiError, bad_request
from octavo.server.runtime import Runtime
from octavo.server.state import ServerState

TIMEOUT_HEADER = "x-request-timeout"


def state_of(request: Request) -> ServerState:
    state = request.app.state.octavo
    assert isinstance(state, ServerState)
    return state


def caller_of(
    request: Request, timeout: float | None = None, priority: int | None = None, cache_salt: str | None = None
) -> Caller:
    """The caller of a request, with the earliest deadline that applies. Raises ApiError for a bad header."""
    stated = [timeout, _header_timeout(request), state_of(request).settings.request_timeout]
    limits = [each for each in stated if each is not None]
    deadline = time.monotonic() + min(limits) if limits else None
    scope = request.scope
    return Caller(scope["octavo.key"], scope["octavo.request_id"], deadline, priority or 0, cache_salt or "")


def caller_for(request: Request, body: Controls) -> Caller:
    return caller_of(request, body.timeout, body.priority, body.cache_salt)


def _header_timeout(request: Request) -> float | None:
    if (given := request.headers.get(TIMEOUT_HEADER)) is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise bad_request(f"{TIMEOUT_HEADER} must be seconds, above 0 and at most 86400", TIMEOUT_HEADER)
    return seconds


def check_answers(n: int | None, most: int, field: str = "n") -> None:
    if n is not None and n > most:
        raise bad_request(f"{field} must be from 1 to {most} on this server; got {n}", field, "invalid_value")


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


@contextlib.asynccontextmanager
async def generate(
    request: Request,
    runtime: Runtime,
    caller: Caller,
    job_id: str,
    model: str | None,
    prompts: list[Tokens],
    params: SamplingParams,
    inbox: Inbox,
    pooling: str | None = None,
) -> AsyncIterator[GenerationJob]:
    """As `job.run`; also stores the token counts for the access log."""
    made = GenerationJob(job_id, model or runtime.name, runtime)
    try:
        async with run(made, caller, prompts, params, inbox, pooling) as job:
            yield job
    finally:
        request.scope["octavo.facts"] = {
            "model": runtime.name,
            "prompt_tokens": made.num_prompt_tokens,
            "output_tokens": made.num_output_tokens,
            "cached_tokens": made.num_cached_tokens,
        }


def openai_error(error: ApiError) -> bytes:
    return error.encoded()
