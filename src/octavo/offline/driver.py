"""Steps an engine in this process and keeps texts and streams up with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

from octavo.engine import Engine
from octavo.offline.progress import DeltaListener
from octavo.outputs import OutputDelta, RequestOutput
from octavo.processing.pooling import Pooling
from octavo.processing.processor import OutputProcessor
from octavo.tokenizer import Tokenizer
from octavo.types import Request, SequenceDelta

Job = tuple[Request, str | None]  # a request, and its prompt's text where it came as text
Stream = Generator[OutputDelta, None, RequestOutput]


class Driver:
    """Not thread-safe. Any number of streams may be read in turn: each step serves them all."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer):
        self._engine = engine
        self._processor = OutputProcessor(tokenizer)
        self._inboxes: dict[str, deque[OutputDelta]] = {}  # of the requests that are being streamed
        self._pooling = Pooling()

    @property
    def processor_seconds(self) -> float:
        """Time spent so far on making text of tokens."""
        return self._processor.seconds

    def generate(self, jobs: list[Job], watch: DeltaListener | None = None) -> list[RequestOutput]:
        """The answers (or the vectors of pooled prompts), in order. watch: told what each step brought.

        All or nothing: if a request is refused, or the caller is interrupted, none of them stays behind in the engine.
        """
        try:
            outputs = [self._add(request, text) for request, text in jobs]
            while not all(output.finished for output in outputs):
                new = self._step()
                if watch is not None:
                    watch(new)
        except BaseException:
            self.abort(request.request_id for request, _ in jobs)
            raise
        return outputs

    def stream(self, request: Request, text: str | None = None) -> Stream:
        """What is new, as it comes; returns the whole output. Closing the generator aborts the request."""
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
        return output

    def abort(self, request_ids: Iterable[str]) -> None:
        """Drops these requests, as far as they are unfinished; their outputs end with the reason "abort"."""
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

    def _deliver(self, deltas: list[SequenceDelta]) -> list[OutputDelta]:
        new = self._processor.process(self._pooling.collect(deltas))
        for out in new:
            if (inbox := self._inboxes.get(out.request_id)) is not None:
                inbox.append(out)
        return new
