"""The engine's end of the socket pair: a connection to the server.

It never blocks while the engine has work, even if the server reads slowly.
"""

from __future__ import annotations

import select
import socket
from collections import deque

from octavo.server.engine.protocol import Command, Frames, Message, commands, encode

MAX_UNSENT = 1 << 28  # bytes; a server that leaves more unread is taken to hang
CHUNK = 1 << 18


class Closed(Exception):
    """The server has closed the connection, or hangs."""


class ServerConnection:
    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._socket = sock
        self._frames = Frames()
        self._unsent = bytearray()
        self._received: deque[Command] = deque()

    def send(self, message: Message) -> None:
        """Sends what the socket accepts now. The next `send` or `receive` sends the rest. Raises Closed."""
        self._unsent += encode(message)
        if len(self._unsent) > MAX_UNSENT:
            raise Closed
        self._flush()

    def receive(self, timeout: float | None) -> list[Command]:
        """Returns the commands received, in order. timeout: seconds to wait; None: no limit. Raises Closed."""
        writing = [self._socket] if self._unsent else []
        readable, writable, _ = select.select([self._socket], writing, [], timeout)
        if writable:
            self._flush()
        return self._read() if readable else []

    def receive_one(self) -> Command:
        """Waits for the next command. Raises Closed."""
        while not self._received:
            self._received.extend(self.receive(None))
        return self._received.popleft()

    def _read(self) -> list[Command]:
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionError:
            raise Closed from None
        if not data:
            raise Closed
        return [commands.decode(body) for body in self._frames.feed(data)]

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except ConnectionError:
            raise Closed from None
