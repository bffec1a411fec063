"""Compiles the grammars of requests in a thread, so that the engine loop keeps stepping."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from octavo.errors import OctavoError, RequestError
from octavo.sampling.grammar import FIELD, Compiler
from octavo.tokenizer import Tokenizer
from octavo.types import Request

log = logging.getLogger(__name__)
MAX_PENDING = 64
BUSY = RequestError(f"{FIELD}: too many grammars are being compiled at the moment: try again", FIELD)
BROKEN = RequestError(f"{FIELD}: the grammar cannot be compiled", FIELD)

Outcome = tuple[Request, OctavoError | None]


class Compilations:
    """One worker thread and the requests that wait for it. Most of the compilation is native code without the GIL."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self._compiler = Compiler(tokenizer, vocab_size)
        self._threads = ThreadPoolExecutor(1, "grammar")
        self.prepared = False
        self._pending: dict[str, tuple[Request, Future[None]]] = {}

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def prepare(self) -> None:
        """Starts to build what all grammars share, so that the first one need not wait. Call it when idle: the other
        threads stop meanwhile, for half a second with 150,000 tokens."""
        self.prepared = True
        self._threads.submit(self._compiler.prepare)

    def start(self, request: Request) -> OctavoError | None:
        """Queues the request; `take` returns its outcome later. Returns an error if too many requests are waiting."""
        if len(self._pending) >= MAX_PENDING:
            return BUSY
        self._pending[request.request_id] = (request, self._threads.submit(self._compile, request))
        return None

    def cancel(self, request_id: str) -> bool:
        """Returns whether the request was waiting. If so, `take` will not return it."""
        found = self._pending.pop(request_id, None)
        return found is not None and (found[1].cancel() or True)

    def take(self) -> list[Outcome]:
        """The requests whose compilation has finished, each with its error or None."""
        done = [name for name, (_, future) in self._pending.items() if future.done()]
        return [self._outcome(*self._pending.pop(name)) for name in done]

    def _compile(self, request: Request) -> None:
        assert request.params.structured_outputs is not None
        request.grammar = self._compiler.compile(request.params.structured_outputs)

    def _outcome(self, request: Request, future: Future[None]) -> Outcome:
        error = future.exception()
        if error is None or isinstance(error, OctavoError):
            return request, error
        log.error("the grammar of request %s broke the compiler", request.request_id, exc_info=error)
        return request, BROKEN
