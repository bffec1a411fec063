"""The middleware of every HTTP request: assigns an id, checks the API key, and writes the access log."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.http import errors, keys
from octavo.server.http.errors import ApiError
from octavo.server.http.keys import ANONYMOUS, ApiKey
from octavo.server.http.tracing import Tracer

log = logging.getLogger("octavo.access")
EndSpan = Callable[[Mapping[str, Any]], None]
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# These paths reveal only that a server runs. The page is public too: it shows no data until it has a key.
PUBLIC = frozenset({"/health", "/ready", "/version"})
QUIET = frozenset({"/health", "/ready", "/metrics", "/load", "/octavo/state"})  # polled; logged at debug


class RequestMiddleware:
    """ASGI middleware. keys: if empty, no request needs a key. public: paths that need no key.

    shape: encodes an error for the API of a path.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: tuple[ApiKey, ...],
        public: Iterable[str],
        shape: Callable[[str, ApiError], bytes],
        tracer: Tracer | None = None,
    ):
        self._app = app
        self._tracer = tracer
        self._keys = keys
        self._public = frozenset(public)
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["octavo.request_id"] = request_id = _request_id(headers)
        start, status = time.perf_counter(), 0
        end_span = self._begin_span(scope, headers)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            scope["octavo.key"] = self._key(scope, headers)
            await self._app(scope, receive, send_with_id)
        except ApiError as error:  # raised by the key check
            await self._answer(scope, error, send_with_id)
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id})
            if not status:
                await self._answer(scope, errors.internal(), send_with_id)
        finally:
            facts = _facts(scope, status, time.perf_counter() - start)
            _log(scope, status, facts)
            if end_span is not None:
                end_span(facts)

    async def _answer(self, scope: Scope, error: ApiError, send: Send) -> None:
        body = self._shape(scope["path"], error)
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": error.status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    def _begin_span(self, scope: Scope, headers: Headers) -> EndSpan | None:
        if self._tracer is None or scope["path"] in QUIET:
            return None
        return self._tracer.begin(f"{scope['method']} {scope['path'][:200]}", headers)

    def _key(self, scope: Scope, headers: Headers) -> ApiKey:
        """The key of the request. Raises ApiError (401) if a key is needed and none matches."""
        if not self._keys:
            return ANONYMOUS
        found = keys.find(self._keys, _given_key(headers))
        if found is None and scope["path"] not in self._public:
            raise errors.unauthorized()
        return found or ANONYMOUS


def _given_key(headers: Headers) -> bytes:
    """Reads OpenAI's header (Authorization) or Anthropic's (x-api-key)."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1", "replace")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(12)


def _facts(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """The fields of the access log for a finished request."""
    facts = {
        "request_id": scope["octavo.request_id"],
        "status": status,
        "seconds": round(seconds, 4),
        "key": scope.get("octavo.key", ANONYMOUS).name,
        **scope.get("octavo.facts", {}),
    }
    if (outcome := scope.get("octavo.outcome")) is not None:
        facts["outcome"] = outcome
    return facts


def _log(scope: Scope, status: int, facts: dict[str, Any]) -> None:
    level = logging.DEBUG if scope["path"] in QUIET and status in (200, 503) else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s %s", scope["method"], scope["path"][:200], extra=facts)
