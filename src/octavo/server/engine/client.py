"""Sends requests to an engine process, and turns the tokens it returns into text for each request's inbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from octavo.errors import CapacityError, RequestError
from octavo.outputs import OutputDelta
from octavo.processing.processor import OutputProcessor
from octavo.server.engine.metrics import EngineMetrics
from octavo.server.engine.protocol import Abort, Add, Event, Message, Pong, Refused, Snapshot, Step
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.http import errors
from octavo.server.http.errors import ApiError
from octavo.tokenizer import Tokenizer
from octavo.types import Request, SequenceDelta


class EngineClient:
    """send: sends a message to the engine. metrics: receives every measurement.

    All methods belong to the event loop's thread.
    """

    def __init__(self, tokenizer: Tokenizer, send: Callable[[Message], None], metrics: EngineMetrics):
        self.snapshot: dict[str, Any] = {}
        self._send = send
        self._metrics = metrics
        self._processor = OutputProcessor(tokenizer)
        self._generations: dict[str, Generation] = {}

    @property
    def processor_seconds(self) -> float:
        """Total time spent on converting tokens to text."""
        return self._processor.seconds

    @property
    def in_flight(self) -> int:
        return len(self._generations)

    def add(self, request: Request, text: str | None, inbox: Inbox, number: int = 0) -> Generation:
        """Sends the request. Its outputs will arrive in the inbox."""
        output = self._processor.add(request, text)
        made = Generation(request, output, inbox, number)
        self._generations[request.request_id] = made
        inbox.expect()
        self._send(Add(request))
        return made

    def abort(self, generations: Iterable[Generation]) -> None:
        """Ends the generations that are still running, because their client has left."""
        for generation in generations:
            if not generation.ended:
                self._send(Abort(generation.request.request_id))
                self._end(generation, "abort")

    def fail_all(self, error: ApiError) -> None:
        """Fails every request, because the engine process is gone."""
        for generation in list(self._generations.values()):
            generation.inbox.fail(error)
            self._end(generation, "error")

    def handle(self, event: Event) -> None:
        match event:
            case Step(deltas=deltas, tokens=tokens, stats=stats):
                self._metrics.step(tokens, stats)
                self._take(deltas)
            case Pong(fragmentation=fragmentation, device_used=used):
                self._metrics.fragmentation, self._metrics.device_used = fragmentation, used
            case Refused():
                self._refused(event)
            case Snapshot(state=state):
                self.snapshot = state

    def _refused(self, event: Refused) -> None:
        if (generation := self._generations.get(event.request_id)) is None:
            return
        made = CapacityError(event.reason) if event.kind == "capacity" else RequestError(event.reason, event.field)
        self._fail(generation, errors.from_octavo(made))

    def _take(self, deltas: list[SequenceDelta]) -> None:
        ended: list[Generation] = []  # ended last: a sibling's output may still follow in this step
        mistakes = {delta.request_id: RequestError(*delta.error) for delta in deltas if delta.error is not None}
        made, now = self._processor.process(deltas), time.monotonic()
        for new in made:
            if (generation := self._generations.get(new.request_id)) is not None:  # None: failed with a sibling
                self._deliver(generation, new, now, mistakes.get(new.request_id))
                if new.finish_reason is not None:
                    ended.append(generation)
        for generation in ended:
            if generation.output.finished:
                self._end(generation, generation.output.outputs[0].finish_reason or "stop")
        for request_id in self._processor.take_aborts():
            self._send(Abort(request_id))

    def _deliver(
        self, generation: Generation, new: OutputDelta, now: float, mistake: RequestError | None = None
    ) -> None:
        """mistake: the user's, if that is why the request ends with "error"."""
        if new.token_ids:
            self._metrics.tokens(generation, new.index, len(new.token_ids), now)
        if new.finish_reason == "error":
            self._fail(generation, errors.engine_failed() if mistake is None else errors.from_octavo(mistake))
        elif new.finish_reason == "deadline":
            self._fail(generation, errors.past_deadline(generation.num_output_tokens))
        else:
            generation.inbox.put((generation, new))

    def _fail(self, generation: Generation, error: ApiError) -> None:
        generation.inbox.fail(error)
        reason = {408: "deadline", 500: "error"}.get(error.status, "abort")
        self._end(generation, reason)

    def _end(self, generation: Generation, reason: str) -> None:
        if generation.ended:
            return
        generation.ended = True
        self._generations.pop(generation.request.request_id, None)
        self._processor.drop(generation.request.request_id, reason)
        generation.inbox.end()
        self._metrics.ended(generation, reason, time.monotonic())
