"""The server's end of the socket pair: a connection to an engine process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from octavo.server.engine.protocol import Event, Frames, Message, encode, events

log = logging.getLogger(__name__)


class EngineConnection(asyncio.Protocol):
    """on_event: called with each event. on_close: called once, when the engine closes its end or sends an invalid
    message."""

    def __init__(self, on_event: Callable[[Event], None], on_close: Callable[[], None]):
        self._on_event = on_event
        self._on_close = on_close
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, on_event: Callable[[Event], None], on_close: Callable[[], None]
    ) -> EngineConnection:
        sock.setblocking(False)
        _, connection = await asyncio.get_running_loop().create_unix_connection(
            lambda: cls(on_event, on_close), sock=sock
        )
        return connection

    def send(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's has the methods, not the base class

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._on_event(events.decode(body))
        except Exception:  # our bug or a broken engine: the supervisor restarts it
            log.exception("an engine's message cannot be handled")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_close()
