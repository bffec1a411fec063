"""One streamed request over a plain socket.

The client shares the processor with the server under test, so it must be cheap. It writes HTTP/1.1 by hand and decodes
only the fields that are counted. It reads only standard fields, so any OpenAI-compatible server works. If a server does
not count tokens, its chunks are counted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from octavo.errors import ConfigError

MAX_LINE = 1 << 20  # bytes of one event
MAX_ERROR = 1 << 14  # bytes to read of an error response
DATA = b"data:"


class Failure(Exception):
    """A request without a complete answer. kind: a short name to count by, such as "http 429" or "cut off"."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Target(NamedTuple):
    """A server. base: the path in front of /chat/completions and the like."""

    host: str
    port: int
    base: str
    tls: bool
    key: str | None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.base}"


class Answer(NamedTuple):
    """Token counts come from the server; None if it sends none."""

    text: str
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


def target(url: str, key: str | None = None) -> Target:
    """Parses "http://host:port", with or without /v1. Raises ConfigError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"url {url!r} cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"url must be of the form http://host:port; got {url!r}")
    path = parts.path.rstrip("/")
    tls = parts.scheme == "https"
    return Target(
        parts.hostname, port or (443 if tls else 80), path if path.endswith("/v1") else f"{path}/v1", tls, key
    )


async def first_model(server: Target) -> str:
    """Returns the name of the server's first model. Raises Failure."""
    async with _Connection(server, "GET", "/models", b"") as connection:
        body = b"".join([piece async for piece in connection.pieces()])
    try:
        return str(msgspec.json.decode(body)["data"][0]["id"])
    except (msgspec.DecodeError, LookupError, TypeError):
        raise Failure("no model", f"{server.url}/models lists none") from None


async def stream(server: Target, path: str, request: dict[str, Any], on_text: Callable[[], None]) -> Answer:
    """Sends a streaming request. Calls `on_text` when a chunk with text arrives. Raises Failure."""
    async with _Connection(server, "POST", path, msgspec.json.encode(request)) as connection:
        return await _read(connection.lines(), on_text)


async def _read(lines: AsyncIterator[bytes], on_text: Callable[[], None]) -> Answer:
    texts: list[str] = []
    usage, finished = _Usage(), False
    async for line in lines:
        if not line.startswith(DATA):
            continue
        data = line[len(DATA) :].strip()
        if data == b"[DONE]":
            finished = True
            break
        chunk = _parse(data)
        usage = chunk.usage or usage
        for choice in chunk.choices or ():
            finished |= choice.finish_reason is not None
            if text := _text(choice):
                on_text()
                texts.append(text)
    if not finished:
        raise Failure("cut off", "the stream ended before the answer did")
    if not texts:
        raise Failure("empty answer")
    details = usage.prompt_tokens_details or _Details()
    return Answer("".join(texts), usage.prompt_tokens, usage.completion_tokens, details.cached_tokens)


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Failure("bad event", str(error)) from None
    if chunk.error:
        raise Failure("error event", _message(chunk.error))
    return chunk


def _text(choice: _Choice) -> str | None:
    if choice.delta is None:
        return choice.text
    return choice.delta.content or choice.delta.reasoning_content or choice.delta.reasoning


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]


class _Connection:
    """A new connection for one request. All servers pay the same for it, and it cannot be stale."""

    def __init__(self, server: Target, method: str, path: str, body: bytes):
        self._server = server
        head = [f"{method} {server.base}{path} HTTP/1.1", f"Host: {server.host}:{server.port}", "Connection: close"]
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Accept: text/event-stream, */*"]
        if server.key:
            head.append(f"Authorization: Bearer {server.key}")
        self._request = "\r\n".join([*head, "", ""]).encode() + body

    async def __aenter__(self) -> _Connection:
        context = ssl.create_default_context() if self._server.tls else None
        try:
            opened = asyncio.open_connection(self._server.host, self._server.port, ssl=context, limit=MAX_LINE)
            self._reader, self._writer = await opened
        except OSError as error:
            raise Failure("no connection", str(error)) from None
        try:
            self._writer.write(self._request)
            await self._open()
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def _open(self) -> None:
        """Reads status and headers."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
            raise Failure("no answer", repr(error)) from None
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._length = int(headers.get("content-length", -1))
        if status != 200:
            raise Failure(f"http {status}", await self._refusal())

    async def _refusal(self) -> str:
        body = b""
        async for piece in self.pieces():
            body += piece
            if len(body) >= MAX_ERROR:
                break
        try:
            return _message(msgspec.json.decode(body)["error"])
        except (msgspec.DecodeError, LookupError, TypeError):
            return body[:200].decode("utf-8", "replace")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body in pieces as it arrives."""
        try:
            if self._chunked:
                while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
            elif self._length >= 0:
                yield await self._reader.readexactly(self._length)
            else:
                while piece := await self._reader.read(1 << 16):
                    yield piece
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Failure("cut off", repr(error)) from None

    async def lines(self) -> AsyncIterator[bytes]:
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line
