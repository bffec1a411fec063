"""A scripted server with OpenAI's API, without a model or Octavo: a test sets its answers, speed and failures.

Used to test clients: the page and `octavo bench serving`.
"""

from __future__ import annotations

import json
import mimetypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# The headers of a careful deployment: they make a test fail if the page loads anything inline or external.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


@dataclass
class Fake:
    """pieces: the chunks of an answer, as text or as deltas; if empty, max_tokens words. delay: seconds before each.

    trouble(number of the request, counted from 0): None, an HTTP status, "event" (an error within the stream), "cut"
    (the connection breaks), "silent" (the stream ends without [DONE]) or "hang".
    """

    pieces: list[str | dict[str, Any]] = field(default_factory=list)
    delay: float = 0.0
    first_delay: float = 0.0
    cached_tokens: int = 0
    usage: bool = True
    key: str | None = None
    state: dict[str, Any] | None = None
    id: str = "chatcmpl-aaaa1111"
    trouble: Callable[[int], int | str | None] = lambda _: None
    page: Path | None = None
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    open: int = 0  # answers that are being written
    most_open: int = 0
    cut_off: int = 0  # answers whose reader disconnected
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def answering(self) -> Iterator[None]:
        with self.lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            with self.lock:
                self.open -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: Fake

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.fake
        fake.paths.append(self.path)
        models = {"object": "list", "data": [{"id": "fake-1"}, {"id": "fake-2", "root": "second"}]}
        known = {"/v1/models": models, "/octavo/state": fake.state}
        if (value := known.get(self.path)) is None:
            self.send_file(self.path.partition("?")[0])
        elif self.authorized():
            self.send_json(value)

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.authorized():
            return
        with fake.lock:
            number = len(fake.bodies)
            fake.bodies.append(body)
        trouble = fake.trouble(number)
        if isinstance(trouble, int):
            self.refuse(trouble, "too busy" if trouble == 429 else "no")
            return
        try:
            with fake.answering():
                self.stream(body, trouble)
        except (BrokenPipeError, ConnectionResetError):
            fake.cut_off += 1
            self.close_connection = True

    def authorized(self) -> bool:
        if self.fake.key is None or self.headers["Authorization"] == f"Bearer {self.fake.key}":
            return True
        self.refuse(401, "an API key is needed")
        return False

    def refuse(self, status: int, message: str) -> None:
        self.send_json({"error": {"message": message, "type": "error"}}, status, {"Retry-After": "2"})

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_body(json.dumps(value).encode(), "application/json", status, headers or {})

    def send_file(self, name: str) -> None:
        path = (self.fake.page or Path("/nowhere")) / (name.lstrip("/") or "index.html")
        if path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self.send_body(path.read_bytes(), kind, 200, {"Content-Security-Policy": POLICY})
        else:
            self.send_json({"error": {"message": "not found"}}, 404)

    def send_body(self, body: bytes, kind: str, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, body: dict[str, Any], trouble: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chat = self.path.endswith("chat/completions")
        words: list[str | dict[str, Any]] = [f"word{index} " for index in range(body.get("max_tokens") or 16)]
        pieces = self.fake.pieces or words
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        self.fake.closing.wait(self.fake.first_delay)
        for index, piece in enumerate(pieces):
            if trouble and index == len(pieces) // 2:
                return self.fail(trouble)
            self.fake.closing.wait(self.fake.delay)
            last = {"finish_reason": "stop"} if index == len(pieces) - 1 else {}
            text = {"delta": {"content": piece} if isinstance(piece, str) else piece} if chat else {"text": piece}
            self.event({"choices": [{"index": 0, **text, **last}]})
        if self.fake.usage and (body.get("stream_options") or {}).get("include_usage"):
            details = {"cached_tokens": self.fake.cached_tokens}
            counts = {"prompt_tokens": 10, "completion_tokens": len(pieces), "prompt_tokens_details": details}
            self.event({"choices": [], "usage": counts})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def fail(self, trouble: str) -> None:
        if trouble == "event":
            self.event({"error": {"message": "the engine process failed", "code": 503}})
        if trouble == "hang":
            self.fake.closing.wait(20)
        if trouble == "cut":
            self.fake.closing.wait(0.1)  # the client reads what was sent first
            self.close_connection = True
            return
        self.chunk(b"")

    def event(self, value: Any) -> None:
        self.chunk(b"data: " + json.dumps({"id": self.fake.id, **value}).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


@contextmanager
def serve(fake: Fake) -> Iterator[Fake]:
    """Serves the fake at fake.url within the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": fake}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.closing.set()
        server.shutdown()
        server.server_close()


def wait_for(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits until `true()` returns a true value, and returns it. Fails the test on timeout."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.03)
    return value
