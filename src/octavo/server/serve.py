"""Runs the server: sockets, signals and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from octavo.errors import CapacityError, ConfigError, ModelFileError
from octavo.server import admission, logs
from octavo.server.engine.supervisor import State
from octavo.server.http.app import make_app
from octavo.server.http.connection import Connection
from octavo.server.model_pool import memory_needed
from octavo.server.settings import ModelSource, ServerSettings, check
from octavo.server.state import ServerState

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """The first signal drains: new requests are refused, active ones may finish. A second signal ends them at once."""

    def __init__(self, config: uvicorn.Config, state: ServerState):
        super().__init__(config)
        self._state = state
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(None)
        log.info("listening at %s for %s", self.address, ", ".join(self._state.pool.names))
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or failed_model(self._state) is not None

    @property
    def address(self) -> str:
        scheme = "https" if self.config.ssl_certfile else "http"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals here, because uvicorn would raise them again at exit and so report a crash."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining or self._loop is None:
            self._state.draining = self.should_exit = self.force_exit = True
        else:
            self._state.draining = True
            self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._drain = asyncio.get_running_loop().create_task(self._finish_work())

    async def _finish_work(self) -> None:
        state, limit = self._state, self._state.settings.shutdown_timeout
        log.info("shutting down: waiting for %d requests", state.active_requests)
        end = time.monotonic() + limit
        while state.active_requests and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        if state.active_requests:
            log.warning("ending %d unfinished requests", state.active_requests)
            await cut_off(state)
        self.should_exit = True


async def cut_off(state: ServerState) -> None:
    """Ends all active requests with an error, and waits up to 1 s until the errors are sent."""
    for runtime in state.pool.runtimes:
        runtime.admission.fail_waiting(admission.draining())
        if runtime.client is not None:
            runtime.client.fail_all(admission.draining())
    for _ in range(50):
        if not state.active_requests:
            break
        await asyncio.sleep(0.02)


def serve(settings: ServerSettings) -> int:
    """Serves until a signal stops it. Returns the exit status.

    Raises ConfigError for invalid settings, ModelFileError or CapacityError for a model that cannot be loaded.
    """
    check(settings)
    check_address(settings.host, settings.port)
    for model in settings.models:
        if model.eager:
            check_memory(model, settings.memory)  # also reports a bad model file before the server starts
    logs.configure(settings.log_format, settings.log_level)
    app, state = make_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=type("LimitedConnection", (Connection,), {"limits": settings.limits}),
        ws="none",
        loop="auto",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        limit_concurrency=None,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        proxy_headers=False,
    )
    server = Server(config, state)
    server.run()
    if (problem := failed_model(state)) is not None:
        raise ModelFileError(problem)
    return 0 if server.started else 1


def check_memory(model: ModelSource, memory: int | None) -> None:
    """Raises OctavoError if the model cannot be loaded, or needs more than `memory` bytes."""
    needed = memory_needed(model)
    if memory is not None and needed > memory:
        raise CapacityError(f"the model {model.aliases[0]} needs {needed >> 20} MiB: raise memory, {memory >> 20} MiB")


def check_address(host: str, port: int) -> None:
    """Raises ConfigError if the address is not available. Called early: the error is then one line, before any load."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another host or port"
        ) from None


def failed_model(state: ServerState) -> str | None:
    """The reason why an eager model failed to load; None if none failed."""
    eager = [runtime.supervisor for runtime in state.pool.runtimes if runtime.model.eager]
    return next((each.problem for each in eager if each.state is State.FAILED), None)
