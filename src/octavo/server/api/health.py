"""/health (whether the server works), /ready (whether it takes requests), /version and /load."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from octavo import __version__
from octavo.server.api.common import state_of
from octavo.server.http import sse
from octavo.server.http.openapi import describe
from octavo.server.state import ServerState

router = APIRouter()


class Health(Struct):
    """engines: by model, the state of its engine and the problem if there is one."""

    status: str
    engines: dict[str, dict[str, Any]]


class Version(Struct):
    version: str


class Load(Struct):
    """server_load: active generation requests. running, waiting: sequences in the engines.

    queued: requests that wait for admission.
    """

    server_load: int
    running: int
    waiting: int
    queued: int
    tokens_per_second: float


@router.get("/health", **describe(None, Health, unavailable=True))
async def health(request: Request) -> Response:
    state = state_of(request)
    return _health(state, state.pool.ready)


@router.get("/ready", **describe(None, Health, unavailable=True))
async def ready(request: Request) -> Response:
    state = state_of(request)
    return _health(state, state.pool.ready and not state.draining)


def _health(state: ServerState, good: bool) -> Response:
    status = "draining" if state.draining else "ok" if good else "unavailable"
    engines = {runtime.name: runtime.supervisor.describe() for runtime in state.pool.runtimes}
    return Response(sse.encode(Health(status, engines)), 200 if good else 503, media_type="application/json")


@router.get("/version", **describe(None, Version))
async def version() -> Response:
    return Response(sse.encode(Version(__version__)), media_type="application/json")


@router.get("/load", **describe(None, Load))
async def load(request: Request) -> Response:
    state = state_of(request)
    metrics = [runtime.metrics for runtime in state.pool.runtimes]
    made = Load(
        state.active_requests,
        sum(each.gauge("running") for each in metrics),
        sum(each.gauge("waiting") for each in metrics),
        sum(runtime.admission.waiting_requests for runtime in state.pool.runtimes),
        round(sum(each.tokens_per_second() for each in metrics), 1),
    )
    return Response(sse.encode(made), media_type="application/json")
