"""Server processes for tests: started, monitored and always ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0
FULL = bool(os.environ.get("OCTAVO_FULL"))  # full-size reliability tests, not scaled down for CI
LAUNCH = (sys.executable, "-m", "octavo.cli.main")


class Server:
    """A running `octavo serve`. `log` is its standard error, a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self.process = process
        self._log = log
        self.url = ""

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_listening(self) -> None:
        pattern = re.compile(r"listening at (https?://[\w.]+:\d+) for ")
        self.url = until(lambda: self._alive() and (m := pattern.search(self.log)) and m[1], START_SECONDS)

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        until(lambda: self._alive() and self.status("/ready") == 200, seconds)

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
        return True

    def status(self, path: str) -> int:
        return self.get(path)[0]

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        return self.call("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Returns (status, answer). JSON is decoded, anything else is text. body: bytes are sent unchanged."""
        return self.call("POST", path, body, headers)

    def call(self, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _decoded(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())
        except urllib.error.URLError:
            return 0, None

    def engine(self) -> psutil.Process:
        """The process id of the engine."""
        (found,) = self.engines()
        return found

    def engines(self) -> list[psutil.Process]:
        """The process ids of live engines."""
        alive = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    alive.append(child)
        return alive

    def state(self) -> dict[str, Any]:
        """The current /octavo/state of the first model."""
        self.get("/octavo/state")  # a request returns the snapshot that the previous one asked for
        time.sleep(0.05)
        model: dict[str, Any] = self.get("/octavo/state")[1]["models"][0]
        return model

    def wait_idle(self, seconds: float = 20.0) -> dict[str, Any]:
        """Waits until no sequence holds a block. Returns the state."""

        def idle() -> dict[str, Any] | None:
            state = self.state()
            snapshot = state["snapshot"]
            free = snapshot and not snapshot["sequences"] and all(run[0] < 0 for run in snapshot["blocks"])
            return state if free and not self.get("/load")[1]["server_load"] else None

        return until(idle, seconds)

    def stop(self, seconds: float = 20.0) -> int:
        """Sends SIGTERM. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def until(condition: Any, seconds: float, pause: float = 0.05) -> Any:
    """Waits for a true value of `condition()` and returns it. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s")


@contextlib.contextmanager
def serving(
    model: str | Path, *options: str, folder: Path, launch: tuple[str, ...] = LAUNCH, ready: bool = True, **env: str
) -> Iterator[Server]:
    """Runs `octavo serve MODEL OPTIONS` at a free port. folder: where its log goes."""
    log = folder / f"server-{time.monotonic_ns()}.log"
    command = [*launch, "serve", str(model), "--port", "0", "--threads", "2", *options]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # for test modules
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": path, **env}
        )
    server = Server(process, log)
    try:
        server.wait_listening()
        if ready:
            server.wait_ready()
        yield server
    finally:
        server.kill()
