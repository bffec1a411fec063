"""The loop of an engine process: obey what came, step, report."""

from __future__ import annotations

import time

from octavo.assemble import Assembly
from octavo.engine import Engine
from octavo.errors import CapacityError, OctavoError, RequestError
from octavo.pooling import Pool
from octavo.server import engine_report
from octavo.server.channel import Channel
from octavo.server.grammars import Compilations
from octavo.server.protocol import Abort, Add, Command, Delta, Inspect, Ping, Pong, Refused, Snapshot, Start, Step, Stop
from octavo.types import Request, Sequence, SequenceDelta, Status

COMPILE_POLL = 0.005  # seconds between looks at a grammar that is being compiled while nothing else runs


class Worker:
    """Not thread-safe; the only thread besides compiles grammars."""

    def __init__(self, channel: Channel, parts: Assembly):
        self._channel = channel
        self._engine: Engine = parts.engine
        self._compilations = Compilations(parts.tokenizer, parts.model.vocab_size)
        self._unscheduled: dict[str, Sequence] = {}  # requests that have not run yet
        self._scheduled: dict[str, float] = {}  # when they first ran, until the server is told
        self._pools: dict[str, Pool] = {}
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            for command in self._channel.receive(self._patience()):
                self._obey(command)
            for request, problem in self._compilations.take():
                self._add(request) if problem is None else self._refuse(request, problem)
            if self._engine.has_work:
                self._step()

    def _patience(self) -> float | None:
        """How long to wait for a command: not at all while there is work."""
        if self._engine.has_work:
            return 0
        return COMPILE_POLL if self._compilations.pending else None

    def _obey(self, command: Command) -> None:
        match command:
            case Add(request=request):
                self._take(request)
            case Abort(request_id=request_id):
                self._abort(request_id)
            case Ping(number=number):
                self._channel.send(Pong(number, engine_report.waste(self._engine)))
            case Inspect():
                self._channel.send(Snapshot(engine_report.snapshot(self._engine)))
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
            first = self._engine.add(request)[0]
        except (RequestError, CapacityError) as error:
            self._refuse(request, error)
            return
        self._unscheduled[request.request_id] = first
        if request.pooling is not None:
            self._pools[request.request_id] = Pool(request.pooling)

    def _refuse(self, request: Request, error: OctavoError) -> None:
        kind = "capacity" if isinstance(error, CapacityError) else "request"
        self._channel.send(Refused(request.request_id, str(error), getattr(error, "field", None), kind))

    def _abort(self, request_id: str) -> None:
        if not self._compilations.cancel(request_id):
            self._report(self._engine.abort(request_id))

    def _step(self) -> None:
        start = time.monotonic()
        deltas = self._engine.step()
        if self._unscheduled:
            self._note_scheduled(start)
        self._report(deltas)

    def _note_scheduled(self, start: float) -> None:
        """Which requests first ran in the step that began at `start`."""
        for name in [name for name, seq in self._unscheduled.items() if seq.status is not Status.WAITING]:
            self._scheduled[name] = start
            del self._unscheduled[name]

    def _report(self, deltas: list[SequenceDelta]) -> None:
        told = [delta for delta in map(self._delta, deltas) if delta is not None]
        self._channel.send(Step(told, engine_report.stats(self._engine)))

    def _delta(self, new: SequenceDelta) -> Delta | None:
        """What the server is told: of a pooled request only the end, with the vector."""
        request_id = new.seq.request.request_id
        pool = self._pools.get(request_id)
        if pool is not None:
            pool.take(new)
            if not new.finished:
                return None
        if new.finished:
            self._unscheduled.pop(request_id, None)
        told = engine_report.delta(new, self._scheduled.pop(request_id, None))
        if pool is not None:
            del self._pools[request_id]
            if told.finish_reason == "stop":
                told.pooled = pool.vector(normalize=False).tobytes()
        return told
