"""The HTTP response of a generation: waits for outputs, sends them, and aborts when the client disconnects.

A `Renderer` formats the outputs for one API. Admission, streaming, errors and disconnects are the same for all APIs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.errors import OctavoError
from octavo.outputs import OutputDelta
from octavo.server import admission
from octavo.server.generation.inbox import Generation, Inbox, Item
from octavo.server.http import errors
from octavo.server.http.errors import ApiError
from octavo.server.state import ServerState

log = logging.getLogger(__name__)
QUIET = 10.0  # seconds without output after which the stream sends a comment, so that proxies keep it open
STREAM_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # stops nginx from buffering the stream
]


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How a stream is framed. waiting: sent after QUIET seconds without output; empty where nothing may be sent."""

    content_type: bytes
    waiting: bytes


SSE = StreamFormat(b"text/event-stream; charset=utf-8", b": waiting\n\n")
NDJSON = StreamFormat(b"application/x-ndjson", b"")


class Renderer(Protocol):
    """Formats the outputs for one API. `whole` returns a JSON body, the other methods parts of a stream."""

    def head(self) -> bytes: ...
    def delta(self, generation: Generation, new: OutputDelta) -> bytes: ...
    def tail(self) -> bytes: ...
    def whole(self) -> bytes: ...
    def error(self, error: ApiError) -> bytes: ...


class NeverStreamed:
    """The methods that a Renderer of an API without streams does not need."""

    def head(self) -> bytes:
        raise AssertionError("this API is not streamed")

    def delta(self, generation: Generation, new: OutputDelta) -> bytes:
        raise AssertionError("this API is not streamed")

    def tail(self) -> bytes:
        raise AssertionError("this API is not streamed")

    def error(self, error: ApiError) -> bytes:
        raise AssertionError("this API is not streamed")


Begin = Callable[[Inbox], contextlib.AbstractAsyncContextManager[Renderer]]


class GenerationResponse(Response):
    """The response of a generation, streamed or whole.

    begin: admits the request and starts its generations; leaving the context aborts those that still run.
    names: maps the field names in our errors to the client's names.
    """

    def __init__(
        self,
        state: ServerState,
        begin: Begin,
        stream: bool,
        error_body: Callable[[ApiError], bytes],
        names: Mapping[str, str],
        format: StreamFormat = SSE,
    ):
        self.background = None
        self.status_code = 200
        self._state = state
        self._begin = begin
        self._stream = stream
        self._error_body = error_body
        self._names = names
        self._format = format
        self._renderer: Renderer | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Cancels the generations if the client disconnects."""
        self._scope = scope
        loop = asyncio.get_running_loop()
        work = loop.create_task(self._guarded(send))
        gone = loop.create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            if work.cancelled() and not self._started:
                scope["octavo.outcome"] = "disconnected"

    async def _guarded(self, send: Send) -> None:
        try:
            if self._state.draining:
                raise admission.draining()
            self._state.active_requests += 1
            try:
                async with self._begin(inbox := Inbox(self._stream)) as self._renderer:
                    await (self._write_stream if self._stream else self._write_whole)(self._renderer, inbox, send)
            finally:
                self._state.active_requests -= 1
        except ApiError as error:
            await self._fail(error, send)
        except OctavoError as error:
            await self._fail(errors.from_octavo(error), send)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request failed", extra={"request_id": self._scope.get("octavo.request_id")})
            await self._fail(errors.internal(), send)

    async def _write_whole(self, render: Renderer, inbox: Inbox, send: Send) -> None:
        await inbox.next()
        await self._whole(send, 200, render.whole(), {})

    async def _whole(self, send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._started = True
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        pairs += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await self._send(send, body, more=False)

    async def _write_stream(self, render: Renderer, inbox: Inbox, send: Send) -> None:
        """Sends the status with the first output, so that an error before it can set its own status."""
        pulse = Pulse(inbox)
        try:
            while True:
                items = await inbox.next()
                if not items and inbox.finished:
                    break
                await self._write(send, render, items)
                pulse.rest()
        finally:
            pulse.stop()
        await self._send(send, render.tail(), more=False)

    async def _write(self, send: Send, render: Renderer, items: list[Item]) -> None:
        opening = b"" if self._started else render.head()
        body = opening + (b"".join([render.delta(*item) for item in items]) if items else self._format.waiting)
        if not self._started:
            self._started = True
            headers = [(b"content-type", self._format.content_type), *STREAM_HEADERS]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if body:
            await self._send(send, body)

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        """Waits while the client does not read. `http.connection` closes the connection if that takes too long."""
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _fail(self, error: ApiError, send: Send) -> None:
        error = error.renamed(self._names)
        self._scope["octavo.outcome"] = error.message
        if self._started and self._renderer is not None:
            await self._send(send, self._renderer.error(error), more=False)
        elif not self._started:
            await self._whole(send, error.status, self._error_body(error), error.headers())


class Pulse:
    """Nudges an inbox after QUIET seconds without output. A timer per token would cost more, so a stream has one."""

    def __init__(self, inbox: Inbox):
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._quiet_since = self._loop.time()
        self._timer = self._loop.call_later(QUIET, self._beat)

    def rest(self) -> None:
        """Notes that the stream has sent something."""
        self._quiet_since = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        quiet = self._loop.time() - self._quiet_since
        if quiet >= QUIET:
            self._inbox.nudge()
        self._timer = self._loop.call_later(max(QUIET - quiet, 1.0), self._beat)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
