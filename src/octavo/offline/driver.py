"""Steps an engine in this process, and delivers its output as texts and streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

from octavo.engine import Engine
from octavo.errors import RequestError
from octavo.offline.progress import DeltaListener
from octavo.outputs import OutputDelta, RequestOutput
from octavo.processing.inputs import named
from octavo.processing.pooling import Pooling
from octavo.processing.processor import OutputProcessor
from octavo.tokenizer import Tokenizer
from octavo.types import Request, SequenceDelta

Job = tuple[Request, str | None]  # a request, and the text of its prompt if it was given as text
Stream = Generator[OutputDelta, None, RequestOutput]


class Driver:
    """Runs the requests of one engine. Several streams may be read in turn: each step serves them all.

    Not thread-safe.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer):
        self._engine = engine
        self._processor = OutputProcessor(tokenizer)
        self._inboxes: dict[str, deque[OutputDelta]] = {}  # request id -> deltas that its stream has not yet read
        self._pooling = Pooling()
        self._mistakes: dict[str, RequestError] = {}  # request id -> why it ended with "error", if it is the user's

    @property
    def processor_seconds(self) -> float:
        """Seconds spent so far on turning tokens into text."""
        return self._processor.seconds

    def generate(self, jobs: list[Job], watch: DeltaListener | None = None) -> list[RequestOutput]:
        """Returns the answers (or the vectors of pooled prompts) in order. watch: called with each step's deltas.

        If a request is refused or the caller is interrupted, all requests of this call are aborted.
        Raises RequestError at the end if a request could not follow its grammar.
        """
        try:
            outputs = []
            for number, (request, text) in enumerate(jobs):
                with named("prompts", number, len(jobs)):
                    outputs.append(self._add(request, text))
            while not all(output.finished for output in outputs):
                new = self._step()
                if watch is not None:
                    watch(new)
        except BaseException:
            self.abort(request.request_id for request, _ in jobs)
            raise
        for request, _ in jobs:
            self._raise_mistake(request.request_id)
        return outputs

    def stream(self, request: Request, text: str | None = None) -> Stream:
        """Yields deltas as they come, and returns the whole output. Closing the generator aborts the request."""
        output = self._add(request, text)
        inbox = self._inboxes[request.request_id] = deque()
        try:
            while inbox or not output.finished:
                if inbox:
                    yield inbox.popleft()
                else:
                    self._step()
        finally:
            del self._inboxes[request.request_id]
            if not output.finished:
                self.abort([request.request_id])
        self._raise_mistake(request.request_id)
        return output

    def abort(self, request_ids: Iterable[str]) -> None:
        """Aborts those of the requests that are unfinished. Their finish reason is "abort"."""
        for request_id in request_ids:
            self._deliver(self._engine.abort(request_id))

    def _add(self, request: Request, text: str | None) -> RequestOutput:
        self._engine.add(request)
        self._pooling.add(request)
        return self._processor.add(request, text)

    def _step(self) -> list[OutputDelta]:
        assert self._engine.has_work, "a request is unfinished, but the engine has nothing to do"
        new = self._deliver(self._engine.step())
        self.abort(self._processor.take_aborts())
        return new

    def _raise_mistake(self, request_id: str) -> None:
        if (mistake := self._mistakes.pop(request_id, None)) is not None:
            raise mistake

    def _deliver(self, deltas: list[SequenceDelta]) -> list[OutputDelta]:
        self._mistakes |= {delta.request_id: RequestError(*delta.error) for delta in deltas if delta.error is not None}
        new = self._processor.process(self._pooling.collect(deltas))
        for out in new:
            if (inbox := self._inboxes.get(out.request_id)) is not None:
                inbox.append(out)
        return new
