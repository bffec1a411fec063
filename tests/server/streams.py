"""Streaming clients on plain sockets. A test sets how fast they read and how they disconnect."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from typing import Any

from tests.server.harness import Server


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


class Stream(threading.Thread):
    """Reads a stream of /v1/completions. times: arrival of each event with text. pause: seconds between reads."""

    def __init__(self, server: Server, body: dict[str, Any], pause: float = 0.0, read: bool = True):
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.answer = b""
        self.begun = threading.Event()
        self.leave = threading.Event()  # if set, the client disconnects
        self._pause = pause
        self._read = read
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12 if pause or not read else 1 << 18)
        self._socket.settimeout(60)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.sendall(request_bytes("/v1/completions", {"stream": True, **body}))
        self.start()

    def run(self) -> None:
        with self._socket, contextlib.suppress(ConnectionError):
            if not self._read:
                self.leave.wait(60)
                return
            while not self.leave.is_set() and (data := self._socket.recv(1 << 12 if self._pause else 1 << 16)):
                count = data.count(b'"text":"')
                self.times += [time.monotonic()] * count
                self.answer += data
                self.begun.set()
                time.sleep(self._pause)
            if self.leave.is_set():  # an RST, as from a machine that is switched off
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.answer.decode().splitlines() if line.startswith("data: {")]
        return [json.loads(line[6:]) for line in lines]

    @property
    def text(self) -> str:
        return "".join(choice["text"] for event in self.events for choice in event.get("choices", ()))

    @property
    def error(self) -> dict[str, Any] | None:
        return next((event["error"] for event in self.events if "error" in event), None)

    @property
    def complete(self) -> bool:
        return b"data: [DONE]" in self.answer

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def events(server: Server, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a whole stream, without [DONE]; of a stream of lines, the lines."""
    status, text = server.post(path, body)
    assert status == 200 and isinstance(text, str), text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line and not line.startswith("event: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
