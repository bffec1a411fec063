"""The HTTP application: routes, error handlers, the web page and a background task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from octavo import __version__
from octavo.server.api import (
    chat,
    completions,
    embeddings,
    health,
    infill,
    live,
    messages,
    metrics,
    models,
    responses,
    score,
    tokenize,
)
from octavo.server.api.ollama import embed as ollama_embed
from octavo.server.api.ollama import generate as ollama_generate
from octavo.server.api.ollama import models as ollama_models
from octavo.server.api.ollama import schemas as ollama
from octavo.server.http import docs, errors, openapi
from octavo.server.http.errors import ApiError
from octavo.server.http.middleware import PUBLIC, RequestMiddleware
from octavo.server.http.tracing import Tracer
from octavo.server.model_pool import ModelPool
from octavo.server.settings import ServerSettings
from octavo.server.state import ServerState

log = logging.getLogger(__name__)
# The page may run only its own scripts and connect only to this server.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # after an upgrade a browser must not mix old files with new ones
}
PAGE = Path(__file__).parent.parent / "page"
OPENAI = (completions, chat, responses, embeddings, models)
OLLAMA = (ollama_generate, ollama_embed, ollama_models)
APIS = (*OPENAI, messages, *OLLAMA, score, infill, tokenize, health, metrics, live)
PATHS = [route.path for api in APIS for route in api.router.routes if isinstance(route, Route)]
ERROR_BODIES = {messages.PATH: messages.error_body, ollama.PATH: ollama.error_body}  # by the start of a path


def make_app(settings: ServerSettings) -> tuple[ASGIApp, ServerState]:
    """Returns the application with its middleware, and the state that its routes share."""
    state = ServerState(settings, ModelPool(settings))
    tracer = None if settings.otlp_endpoint is None else Tracer(settings.otlp_endpoint)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.get_running_loop().create_task(_keep(state))
        await state.pool.start()
        yield
        keeper.cancel()
        await state.pool.stop()
        if tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, tracer.close)

    app = FastAPI(title="Octavo", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.octavo = state
    for api in APIS:
        app.include_router(api.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    openapi.install(app, bool(settings.keys))
    docs.install(app)
    pages = _add_page(app) | {docs.PATH}
    guarded: ASGIApp = RequestMiddleware(app, settings.keys, PUBLIC | pages, _shape, tracer)
    if settings.allowed_origins:
        origins = list(settings.allowed_origins)
        guarded = CORSMiddleware(guarded, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return guarded, state


def _add_page(app: FastAPI) -> frozenset[str]:
    """Adds a route for each file of the web page. Returns the routes' paths; none if the page is not installed.

    A mounted folder would instead answer every unknown path and every wrong method.
    """
    files = {"/" + path.relative_to(PAGE).as_posix(): path for path in sorted(PAGE.rglob("*")) if path.is_file()}
    if "/index.html" in files:
        files["/"] = files["/index.html"]
    for url, path in files.items():
        app.add_route(url, partial(_page_file, path), include_in_schema=False)
    return frozenset(files)


async def _page_file(path: Path, request: Request) -> Response:
    return FileResponse(path, headers=PAGE_HEADERS)


async def _keep(state: ServerState) -> None:
    """Unloads idle models, once a second."""
    while True:
        await asyncio.sleep(1)
        try:
            await state.pool.unload_idle()
        except Exception:
            log.exception("a chore failed")


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["octavo.outcome"] = error.message
    return Response(_shape(request.url.path, error), error.status, error.headers(), "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """Handles Starlette's own errors: unknown path, wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        made = errors.not_found(request.url.path[:200], PATHS)
    else:
        made = ApiError(error.status_code, str(error.detail))
    return Response(_shape(request.url.path, made), made.status, dict(error.headers or {}), "application/json")


def _shape(path: str, error: ApiError) -> bytes:
    """Encodes an error in the format of the API that the request used."""
    shapes = (shape for start, shape in ERROR_BODIES.items() if path.startswith(start))
    return next(shapes, ApiError.encoded)(error)
