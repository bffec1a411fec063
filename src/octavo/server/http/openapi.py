"""The OpenAPI description, generated from the types of request bodies and responses."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

from octavo import __version__

TEMPLATE = "#/components/schemas/{name}"
_described: list[type[Struct]] = []


class ErrorDetail(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Struct):
    error: ErrorDetail


ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "An API key is needed.",
    404: "There is no such model.",
    408: "The request's deadline has passed, or its body came too slowly.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    429: "Too many requests are waiting; see Retry-After.",
    500: "The server failed.",
    503: "There is no engine now; see Retry-After.",
}


def describe(
    body: type[Struct] | None,
    answer: type[Struct],
    stream: bool = False,
    errors: type[Struct] = Error,
    missing: bool = False,
    unavailable: bool = False,
    lines: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route that reads `body` and answers with `answer`.

    missing: the route may answer 404. unavailable: its 503 has the type `answer` too.
    stream: it may answer with server-sent events. lines: it may answer with one JSON object per line.
    """
    _described.extend(kind for kind in (body, answer, errors) if kind is not None)
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if stream:
        content["text/event-stream"] = {}
    if lines:
        content["application/x-ndjson"] = {}
    expected = set(ERRORS) if body is not None else {401} | ({404} if missing else set())
    statuses = {code: text for code, text in ERRORS.items() if code in expected}
    failed = {"application/json": {"schema": _ref(errors)}}
    responses: dict[int | str, Any] = {200: {"description": "The answer.", "content": content}}
    responses |= {code: {"description": text, "content": failed} for code, text in statuses.items()}
    if unavailable:
        responses[503] = {"description": "Not now.", "content": content}
    extra: dict[str, Any] = {"responses": responses, "response_model": None}
    if body is not None:
        extra["openapi_extra"] = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
        }
    return extra


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": TEMPLATE.format(name=kind.__name__)}


def install(app: FastAPI, needs_key: bool) -> None:
    """Makes `app.openapi` describe our types."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title="Octavo", version=__version__, routes=app.routes)
            _, components = msgspec.json.schema_components(_described, ref_template=TEMPLATE)
            schema.setdefault("components", {})["schemas"] = components
            for operation in (each for path in schema["paths"].values() for each in path.values()):
                operation["responses"].pop("422", None)  # FastAPI's own validation error, which no route uses
            if needs_key:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    vars(app)["openapi"] = openapi
