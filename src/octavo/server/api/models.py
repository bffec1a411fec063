"""/v1/models: the models of this server."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from octavo.server.api.common import state_of
from octavo.server.http import sse
from octavo.server.http.openapi import describe
from octavo.server.runtime import Runtime

router = APIRouter()


class ModelCard(Struct):
    """state: "stopped", "loading", "ready", "waiting" (to be started again) or "failed"."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int | None
    state: str


class ModelList(Struct):
    object: Literal["list"]
    data: list[ModelCard]


@router.get("/v1/models", **describe(None, ModelList))
async def models(request: Request) -> Response:
    cards = [_card(runtime, name) for runtime in state_of(request).pool.runtimes for name in runtime.model.aliases]
    return _json(ModelList("list", cards))


@router.get("/v1/models/{name:path}", **describe(None, ModelCard, missing=True))
async def model(request: Request, name: str) -> Response:
    return _json(_card(state_of(request).pool.find(name), name))


def _card(runtime: Runtime, name: str) -> ModelCard:
    """root is the model's main name, so that the path of its file stays private."""
    info = runtime.supervisor.info
    longest = None if info is None else info.max_model_len
    state = runtime.supervisor.state.value
    return ModelCard(name, "model", runtime.created, "octavo", runtime.name, longest, state)


def _json(value: Struct) -> Response:
    return Response(sse.encode(value), media_type="application/json")
