"""The engine process's loop and the server's end of it, in one process: every message goes through msgpack."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.assemble import Assembly, assemble, engine_config
from octavo.server import protocol
from octavo.server.engine_client import EngineClient
from octavo.server.generation import Generation, Inbox
from octavo.server.protocol import Command, Event, Message, Stop
from octavo.server.watch import Watch
from octavo.server.worker import Worker
from octavo.types import Request, SamplingParams

PROMPT = [40 + i % 50 for i in range(40)]  # five steps of 8 tokens


@pytest.fixture(scope="module")
def parts(tiny_model: Path) -> Iterator[Assembly]:
    settings: dict[str, Any] = {"max_model_len": 128, "max_num_batched_tokens": 8}
    made = assemble(tiny_model, engine_config(backend="reference", **settings))
    yield made
    made.close()


class Loop:
    """A worker whose socket pair is two lists. `run` lets it work until there is nothing left to do."""

    def __init__(self, parts: Assembly):
        self.watch = Watch()
        self.events: list[Event] = []  # all that the worker has sent
        self.commands: deque[Command] = deque()
        self.client = EngineClient(parts.tokenizer, self._command, self.watch)
        self._worker = Worker(self, parts)  # type: ignore[arg-type]

    def add(self, request: Request) -> Generation:
        return self.client.add(request, None, Inbox(stream=False))

    def run(self) -> None:
        self._worker.run()

    def _command(self, message: Message) -> None:
        self.commands.append(protocol.commands.decode(protocol.encode(message)[4:]))

    def send(self, message: Message) -> None:
        """As `Channel.send`."""
        self.events.append(event := protocol.events.decode(protocol.encode(message)[4:]))
        self.client.hear(event)

    def receive(self, timeout: float | None) -> list[Command]:
        """As `Channel.receive`, but who would wait for ever is told to stop."""
        if timeout is None and not self.commands:
            return [Stop()]
        commands, self.commands = list(self.commands), deque()
        return commands


@pytest.fixture
def loop(parts: Assembly) -> Loop:
    return Loop(parts)


@pytest.mark.parametrize("pooling", [None, "mean", "last"])
def test_the_queue_time_of_a_long_prompt_is_recorded(loop: Loop, pooling: str | None) -> None:
    """Its first step brings nothing to send, but it is when the prompt stopped waiting."""
    made = loop.add(Request("r", PROMPT, SamplingParams(max_tokens=2, ignore_eos=True), pooling=pooling))
    loop.run()
    assert made.output.finished
    assert (made.pooled is None) == (pooling is None)
    assert made.pooled is None or np.isfinite(made.pooled).all()
    waited = loop.watch.histograms["request_queue_time_seconds"]
    assert sum(waited.counts) == 1
    assert 0 <= waited.total < loop.watch.histograms["e2e_request_latency_seconds"].total
