"""The loop of an engine process: handle commands, step, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from octavo.assembly.engine import Assembly
from octavo.backends.registry import device
from octavo.engine import Engine
from octavo.errors import CapacityError, OctavoError, RequestError
from octavo.processing.pooling import Pooling
from octavo.server.engine import report as engine_report
from octavo.server.engine.grammars import Compilations
from octavo.server.engine.protocol import Abort, Add, Command, Inspect, Ping, Pong, Refused, Snapshot, Start, Step, Stop
from octavo.server.engine.server_connection import ServerConnection
from octavo.types import Request, SequenceDelta

IDLE = 0.3  # seconds without a command or work, after loading, until the engine prepares for grammars
COMPILE_POLL = 0.005  # seconds between checks for compiled grammars while the engine is idle
STATS_PERIOD = 0.1  # seconds between stats while there is work: they cost more than the deltas of a step


class Worker:
    """Not thread-safe. The only other thread compiles grammars."""

    def __init__(self, connection: ServerConnection, parts: Assembly, clock: Callable[[], float] = time.monotonic):
        self._connection = connection
        self._clock = clock
        self._stats_due = 0.0
        self._engine: Engine = parts.engine
        self._device = device(parts.config.backend)
        self._compilations = Compilations(parts.tokenizer, parts.model.vocab_size)
        self._pooling = Pooling()
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            commands = self._connection.receive(self._patience())
            for command in commands:
                self._handle(command)
            if not (commands or self._engine.has_work or self._compilations.prepared):
                self._compilations.prepare()
            for request, problem in self._compilations.take():
                self._add(request) if problem is None else self._refuse(request, problem)
            if self._engine.has_work:
                deltas = self._engine.step()
                self._report(deltas, self._engine.stats.step_tokens)

    def _patience(self) -> float | None:
        """Seconds to wait for a command: 0 while the engine has work, None (no limit) when it is idle."""
        if self._engine.has_work:
            return 0
        if self._compilations.pending:
            return COMPILE_POLL
        return None if self._compilations.prepared else IDLE

    def _handle(self, command: Command) -> None:
        match command:
            case Add(request=request):
                self._take(request)
            case Abort(request_id=request_id):
                self._abort(request_id)
            case Ping(number=number):
                self._connection.send(Pong(number, engine_report.waste(self._engine), self._device.facts().used))
            case Inspect():
                self._connection.send(Snapshot(engine_report.snapshot(self._engine)))
            case Stop():
                self._stopped = True
            case Start():
                raise AssertionError("started twice")

    def _take(self, request: Request) -> None:
        if request.params.structured_outputs is None:
            self._add(request)
        elif (problem := self._compilations.start(request)) is not None:
            self._refuse(request, problem)

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except (RequestError, CapacityError) as error:
            self._refuse(request, error)
        else:
            self._pooling.add(request)

    def _refuse(self, request: Request, error: OctavoError) -> None:
        kind = "capacity" if isinstance(error, CapacityError) else "request"
        self._connection.send(Refused(request.request_id, str(error), getattr(error, "field", None), kind))

    def _abort(self, request_id: str) -> None:
        if not self._compilations.cancel(request_id):
            self._report(self._engine.abort(request_id))

    def _report(self, deltas: list[SequenceDelta], tokens: int = 0) -> None:
        self._connection.send(Step(self._pooling.collect(deltas), tokens, self._stats()))

    def _stats(self) -> dict[str, Any] | None:
        """The engine's counters, if they are due. They always are when the work is done: they stay true then."""
        now = self._clock()
        if now < self._stats_due and self._engine.has_work:
            return None
        self._stats_due = now + STATS_PERIOD
        return engine_report.stats(self._engine)
