"""Keeps an engine process running: starts it, monitors it, kills it when it is frozen, and restarts it.

    stopped --start--> loading --Ready--> ready --dead or frozen--> waiting --back-off--> loading
                          |
                          +--a user's mistake--> failed

An engine is alive if it sends messages (answers to pings, for example) or uses CPU time (a long step on a slow
machine). It counts as frozen after `timeout` seconds without either, or `PATIENCE * timeout` seconds without a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from octavo.server.engine.engine_connection import EngineConnection
from octavo.server.engine.process_stat import cpu_seconds
from octavo.server.engine.protocol import Event, Failed, Loading, Message, Ping, Ready, Start, Step, Stop

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "octavo.server.engine.process")
PATIENCE = 12  # times the timeout
PINGS = 10  # sent within each timeout
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 30.0  # seconds
STOP_SECONDS = 5.0


class State(enum.Enum):
    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"


class Supervisor:
    """One engine. All methods belong to the event loop's thread, which must be the main thread: see `_spawn`.

    on_event: called with every event. on_down: called with the reason when an engine that was ready is gone.
    timeout: seconds without a sign of life after which the engine is frozen.
    """

    def __init__(
        self,
        start: Start,
        on_event: Callable[[Event], None],
        on_down: Callable[[str], None],
        timeout: float = 10.0,
        command: Sequence[str] | None = None,
    ):
        self.state = State.STOPPED
        self.problem: str | None = None  # why no engine runs although one should
        self.info: Ready | None = None
        self.progress: tuple[int, int] = (0, 1)  # bytes of the model file: loaded, total
        self.restarts = 0
        self.failures = 0  # consecutive processes that ended before their first step
        self._start = start
        self._on_event = on_event
        self._on_down = on_down
        self._timeout = timeout
        self._command = tuple(command or COMMAND)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: EngineConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # set in the states READY, FAILED and STOPPED
        self._down: asyncio.Future[str] | None = None
        self._last_message = 0.0
        self._backoff = FIRST_BACKOFF

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether an engine runs or will be restarted."""
        return self._task is not None

    def start(self) -> None:
        """Starts loading the engine, if it is not running."""
        if self._task is None:
            self.state, self.problem = State.LOADING, None
            self._settled.clear()
            self._task = asyncio.get_running_loop().create_task(self._live())

    async def wait(self) -> State:
        """Waits until the engine is ready, failed or stopped. Returns the state."""
        while True:
            await self._settled.wait()
            if self.state is not State.WAITING:
                return self.state

    def send(self, message: Message) -> None:
        """Sends a message to the engine. Drops it if no engine runs: `on_down` reports that."""
        if self._connection is not None:
            self._connection.send(message)

    async def stop(self) -> None:
        """Asks the engine to stop, and kills it if it does not within STOP_SECONDS."""
        task, self._task = self._task, None
        if task is None:
            return
        self.send(Stop())
        if self._process is not None and self.state is State.READY:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), STOP_SECONDS)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.state = State.STOPPED
        self._settled.set()

    def kill(self) -> None:
        """Ends the engine at once, without waiting for it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._process is not None:
            self._process.kill()
        self.state = State.STOPPED
        self._settled.set()

    async def _live(self) -> None:
        """Runs engine processes one after another."""
        while True:
            reason = await self._one_life()
            if self._task is None or self.state is State.FAILED:
                self._task = None
                self._settled.set()
                return
            log.error("engine %s: %s; restarting it", self._start.model, reason)
            self.state, self.problem = State.WAITING, reason
            self.restarts += 1
            self.failures += 1
            await asyncio.sleep(self._backoff)
            self._backoff = min(2 * self._backoff, MAX_BACKOFF)
            self.state = State.LOADING

    async def _one_life(self) -> str:
        """Runs one engine process to its end. Returns the reason for the end."""
        loop = asyncio.get_running_loop()
        self._down = down = loop.create_future()
        self._last_message = time.monotonic()
        process, connection = self._process, self._connection = await self._spawn(down)
        pings = loop.create_task(self._watch(process, down))
        try:
            connection.send(self._start)
            reason: str = await down
            return reason
        finally:
            was_ready, self._connection = self.state is State.READY, None
            self._settled.clear()
            pings.cancel()
            connection.close()
            process.kill()
            if was_ready:
                self.state = State.WAITING
                self._on_down(down.result() if down.done() and not down.cancelled() else "the engine was stopped")
            await loop.run_in_executor(None, process.wait)
            self._process = None

    async def _spawn(self, down: asyncio.Future[str]) -> tuple[subprocess.Popen[bytes], EngineConnection]:
        """Must run in the main thread: on Linux the child dies with the thread that started it."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            process = subprocess.Popen(
                [*self._command, str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL, close_fds=True
            )
        connection = await EngineConnection.open(
            ours, self._handle_event, lambda: self._end("the engine process has ended")
        )
        return process, connection

    def _end(self, reason: str) -> None:
        if self._down is not None and not self._down.done():
            self._down.set_result(reason)

    def _handle_event(self, event: Event) -> None:
        self._last_message = time.monotonic()
        match event:
            case Ready():
                self.state, self.info, self.problem = State.READY, event, None
                self._settled.set()
                log.info("model %s is ready", self._start.model)
            case Failed(reason=reason, mistake=mistake):
                self.problem = reason
                if mistake:
                    self.state = State.FAILED
                self._end(reason)
                return
            case Loading(done=done, total=total):
                self.progress = (done, total)
            case Step():
                self._backoff, self.failures = FIRST_BACKOFF, 0  # a completed step proves that the engine works
        self._on_event(event)

    async def _watch(self, process: subprocess.Popen[bytes], down: asyncio.Future[str]) -> None:
        """Sends pings, and ends the engine process when it is frozen."""
        number, clock, moved = 0, 0.0, time.monotonic()
        while not down.done():
            await asyncio.sleep(self._timeout / PINGS)
            number += 1
            self.send(Ping(number))
            now, used = time.monotonic(), cpu_seconds(process.pid)
            if used is not None and used > clock:
                clock, moved = used, now
            last_sign = max(self._last_message, moved)
            if now - last_sign > self._timeout or now - self._last_message > PATIENCE * self._timeout:
                self._end(f"the engine has not answered for {now - self._last_message:.0f} s")

    def describe(self) -> dict[str, Any]:
        """The state for /health and the live page."""
        done, total = self.progress
        loaded = {"progress": round(done / max(total, 1), 3)} if self.state is State.LOADING else {}
        return {"state": self.state.value, "restarts": self.restarts, "problem": self.problem} | loaded
