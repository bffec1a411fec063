"""A client's connection: uvicorn's protocol with limits on headers, unread responses and the number of connections.

The limits bound what a client can hold, in bytes and in seconds: headers that never end (slowloris), a response that it
does not read. A client that does not read stops only its own stream, because nothing is written to it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octavo.server.settings import Limits

log = logging.getLogger(__name__)
KERNEL_BUFFER = 1 << 18  # bytes of a response that the kernel may buffer for a client; its default is megabytes


class Connection(HttpToolsProtocol):
    """Closes connections that send headers too slowly, send too many bytes of them, or do not read their response.

    `limits` holds the bounds. A connection above the limit on their number gets a 503.
    """

    limits = Limits()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        if len(self.connections) > self.limits.connections:
            self._reject(b"503 Service Unavailable")
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.headers and not self.transport.is_closing():
            self._reject(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():  # it closes after sending the rest, which the client may never read
            self._expect_reading()
        super().on_response_complete()

    def _expect_reading(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.send_seconds, self._cut_off)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _cut_off(self) -> None:
        log.warning("closing the connection of a client that does not read its response")
        self.transport.abort()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        """Rejects slow headers. Between requests no timer runs here: uvicorn closes idle connections."""
        if not self.transport.is_closing():
            self._reject(b"408 Request Timeout")

    def _reject(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
