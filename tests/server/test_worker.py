"""The engine process's loop and the server's client in one process. Every message is encoded with msgpack."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.assembly.engine import Assembly, assemble, engine_config
from octavo.errors import RequestError
from octavo.offline.driver import Driver
from octavo.processing.pooling import pooled_vector
from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.server.engine import protocol
from octavo.server.engine.client import EngineClient
from octavo.server.engine.metrics import EngineMetrics
from octavo.server.engine.protocol import Command, Event, Message, Step, Stop
from octavo.server.engine.worker import Worker
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.http.errors import ApiError
from octavo.types import Request, SequenceDelta, TokenLogprob

PROMPT = [40 + i % 50 for i in range(40)]  # five steps of 8 tokens


@pytest.fixture(scope="module")
def parts(tiny_model: Path) -> Iterator[Assembly]:
    settings: dict[str, Any] = {"max_model_len": 128, "max_num_batched_tokens": 8, "enable_prefix_caching": False}
    made = assemble(tiny_model, engine_config(backend="reference", **settings))
    yield made
    made.close()


class Loop:
    """A worker with two lists instead of a socket pair. `run` runs it until no work is left."""

    def __init__(self, parts: Assembly, clock: Callable[[], float] = time.monotonic):
        self.metrics = EngineMetrics()
        self.events: list[Event] = []  # all events that the worker has sent
        self.commands: deque[Command] = deque()
        self.after: Callable[[], None] = lambda: None  # called after each event of the worker
        self.client = EngineClient(parts.tokenizer, self._command, self.metrics)
        self._worker = Worker(self, parts, clock)  # type: ignore[arg-type]

    def add(self, request: Request) -> Generation:
        return self.client.add(request, None, Inbox(stream=False))

    def run(self) -> None:
        self._worker.run()

    def _command(self, message: Message) -> None:
        self.commands.append(protocol.commands.decode(protocol.encode(message)[4:]))

    def send(self, message: Message) -> None:
        """As `ServerConnection.send`."""
        self.events.append(event := protocol.events.decode(protocol.encode(message)[4:]))
        self.client.handle(event)
        self.after()

    def receive(self, timeout: float | None) -> list[Command]:
        """As `ServerConnection.receive`, but a wait without a limit returns Stop."""
        if timeout is None and not self.commands:
            return [Stop()]
        commands, self.commands = list(self.commands), deque()
        return commands


@pytest.fixture
def loop(parts: Assembly) -> Loop:
    return Loop(parts)


@pytest.mark.parametrize("pooling", [None, "mean", "last"])
def test_the_queue_time_of_a_long_prompt_is_recorded(loop: Loop, pooling: str | None) -> None:
    """The first step sends no token, but it ends the queue time."""
    made = loop.add(Request("r", PROMPT, SamplingParams(max_tokens=2, ignore_eos=True), pooling=pooling))
    loop.run()
    assert made.output.finished
    assert (made.output.pooled is None) == (pooling is None)
    waited = loop.metrics.histograms["request_queue_time_seconds"]
    assert sum(waited.counts) == 1
    assert 0 <= waited.total < loop.metrics.histograms["e2e_request_latency_seconds"].total


def test_a_delta_crosses_as_it_is() -> None:
    logprob = TokenLogprob(7, -0.5, 2, [(3, -0.25), (7, -0.5)])
    vector = np.arange(3, dtype=np.float64) / 7
    plain = SequenceDelta("r", 1, [5, 6])
    full = SequenceDelta("r", 0, [7], "stop", 7, 16, 1.5, [logprob], [logprob, logprob], pooled=vector)
    step = protocol.events.decode(protocol.encode(Step([plain, full], 2, {"steps": 1}))[4:])
    assert isinstance(step, Step)
    got = step.deltas
    assert got[0] == plain
    assert got[1].pooled is not None and got[1].pooled.tolist() == vector.tolist()
    got[1].pooled = full.pooled = None
    assert got[1] == full


def test_what_no_message_can_hold_is_our_bug() -> None:
    with pytest.raises(TypeError, match="cannot hold object"):
        protocol.encode(Step([], 0, {"x": object()}))


@pytest.mark.parametrize("mode", ["mean", "last"])
def test_a_prompt_has_the_same_vector_here_and_in_a_process_of_its_own(parts: Assembly, loop: Loop, mode: str) -> None:
    made = loop.add(Request("r", PROMPT, SamplingParams(max_tokens=0), pooling=mode))
    loop.run()
    (here,) = Driver(parts.engine, parts.tokenizer).generate(
        [(Request("r", PROMPT, made.request.params, pooling=mode), None)]
    )
    for normalize in (True, False):
        there = pooled_vector(made.output, normalize)
        assert there.tobytes() == pooled_vector(here, normalize).tobytes()
        assert not normalize or abs(np.linalg.norm(there) - 1) < 1e-6


def test_a_pooled_prompt_that_fails_has_no_vector(loop: Loop) -> None:
    made = loop.add(Request("r", PROMPT, SamplingParams(max_tokens=0), pooling="mean", deadline=0.0))
    loop.run()
    assert made.output.finished and made.output.pooled is None
    with pytest.raises(RequestError, match="ended with 'deadline'"):
        pooled_vector(made.output, normalize=True)


def test_answers_that_a_client_no_longer_wants_end_everywhere(parts: Assembly, loop: Loop) -> None:
    params = SamplingParams(n=2, max_tokens=50, ignore_eos=True)
    made = loop.add(Request("r", PROMPT, params))
    loop.after = lambda: loop.client.abort([made])
    loop.run()
    assert {answer.finish_reason for answer in made.output.outputs} == {"abort"}
    assert loop.metrics.finished == {"abort": 1} and loop.client.in_flight == 0
    assert parts.engine.cache.usage == 0


@pytest.mark.parametrize("pace", [0.0, 0.03, 0.3])
def test_counters_come_ten_times_a_second_and_when_the_work_is_done(parts: Assembly, pace: float) -> None:
    """pace: seconds per step, by the worker's clock."""
    ticks = itertools.count(1)
    loop = Loop(parts, lambda: pace * next(ticks))
    loop.add(Request("r", PROMPT, SamplingParams(max_tokens=20, ignore_eos=True)))
    loop.run()
    steps = [event for event in loop.events if isinstance(event, Step)]
    told = [number for number, step in enumerate(steps) if step.stats is not None]
    every = {0.0: 24, 0.03: 4, 0.3: 1}[pace]
    assert told == sorted({*range(0, 24, every), 23}) and len(steps) == 24
    assert [step.tokens for step in steps] == [8] * 5 + [1] * 19
    metrics = loop.metrics
    assert (metrics.gauge("running"), metrics.gauge("waiting"), metrics.gauge("kv_usage")) == (0, 0, 0)
    assert metrics.total("steps") == parts.engine.stats.steps
    assert metrics.total("generation_tokens") == parts.engine.stats.generation_tokens
    sizes = metrics.histograms["iteration_tokens_total"]
    assert (sum(sizes.counts), sizes.total) == (24, 40 + 19), "every step counts, told with counters or not"


def test_the_counters_of_an_abort_that_ends_the_work_are_told(parts: Assembly) -> None:
    loop = Loop(parts, lambda: 0.0)
    made = loop.add(Request("r", PROMPT, SamplingParams(max_tokens=50, ignore_eos=True)))
    loop.after = lambda: loop.client.abort([made])
    loop.run()
    assert isinstance(last := loop.events[-1], Step) and last.stats is not None and last.tokens == 0
    assert (loop.metrics.gauge("running"), loop.metrics.gauge("kv_usage")) == (0, 0)


@pytest.mark.parametrize("limit", ["allowed", "bad words"])
def test_a_grammar_that_nothing_can_follow_is_the_users_mistake(loop: Loop, limit: str) -> None:
    pytest.importorskip("llguidance")
    grammar = StructuredOutputs(regex="a[bc]")
    params = SamplingParams(max_tokens=4, structured_outputs=grammar)
    made = Request("r", PROMPT, params, bad_word_ids=((ord("a") - 33,),))
    if limit == "allowed":
        made = Request("r", PROMPT, dataclasses.replace(params, allowed_token_ids=(3,)))
    found = loop.add(made)
    loop.run()
    with pytest.raises(ApiError, match="bad_words or allowed_token_ids forbid") as caught:
        asyncio.run(found.inbox.next())
    assert caught.value.status == 400 and caught.value.param == "structured_outputs"


def test_the_vocabulary_of_grammars_is_built_when_idle_and_not_in_a_request(loop: Loop) -> None:
    pytest.importorskip("llguidance")
    loop.run()
    compilations = loop._worker._compilations
    compilations._threads.shutdown()
    assert "_native" in vars(compilations._compiler)
