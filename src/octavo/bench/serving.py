"""Sends a load to a server and records the answers and their times.

In an open loop each request starts when it is due, however many others are still running. A server that is too slow is
therefore seen to fall behind. Latencies count from the moment a request was due, so that a slow client cannot hide
them (coordinated omission). How late the client sent it is reported as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from octavo.bench.serving_client import Answer, Failure, Target, first_model, stream
from octavo.bench.serving_load import ChatTurn, Load, SimulatedChat, simulated_chats, warmup
from octavo.errors import ConfigError

TICK = 0.05  # seconds between measurements of the client's own event loop lag
CHAT, COMPLETIONS = "/chat/completions", "/completions"


@dataclass(slots=True)
class Record:
    """One request. Times are seconds since the start of the run. chunks: arrival times of the chunks with text."""

    number: int
    conversation: int
    turn: int
    due: float
    sent: float = 0.0
    ended: float = 0.0
    chunks: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    error: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What to send to which server.

    timeout: seconds for one request. duration: seconds after which no request starts. extra: more request fields.
    """

    server: Target
    model: str
    load: Load
    chat: bool = True
    temperature: float = 0.0
    timeout: float = 120.0
    duration: float | None = None
    warmups: int = 1
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """records: the measured requests in the order of their starts. cpu: CPU seconds that the client used.

    lags: seconds by which the client's event loop was late, measured each TICK.
    """

    records: list[Record]
    duration: float
    cpu: float
    lags: list[float]


RecordListener = Callable[[Record, bool], None]  # called when a request starts (False) and ends (True)


def measure(test: LoadTest, watch: RecordListener = lambda record, ended: None) -> Outcome:
    """Runs the load test. Raises ConfigError if the server does not answer the warm-up requests."""
    return asyncio.run(_Run(test, watch).whole())


def choose_model(server: Target) -> str:
    """Returns the name of the server's first model. Raises ConfigError."""
    try:
        return asyncio.run(first_model(server))
    except Failure as failure:
        raise ConfigError(f"{server.url} does not say what models it has ({failure}): give --model") from None


class _Run:
    def __init__(self, test: LoadTest, watch: RecordListener):
        self._test = test
        self._watch = watch
        self._records: list[Record] = []
        self._lags: list[float] = []
        self._begin = 0.0

    async def whole(self) -> Outcome:
        for number in range(self._test.warmups):
            await self._warm(warmup(self._test.load, number))
        self._records.clear()
        pulse = asyncio.create_task(self._pulse())
        self._begin, cpu = time.perf_counter(), time.process_time()
        await (self._closed() if self._test.load.rate is None else self._open())
        duration = self._now()
        pulse.cancel()
        return Outcome(self._records, duration, time.process_time() - cpu, self._lags)

    def _now(self) -> float:
        return time.perf_counter() - self._begin

    async def _warm(self, conversation: SimulatedChat) -> None:
        self._begin = time.perf_counter()
        record = Record(conversation.number, conversation.number, 0, 0.0)
        await self._ask(record, messages(conversation.prefix, [conversation.turns[0].text]), conversation.turns[0])
        if record.error:
            raise ConfigError(f"{self._test.server.url} does not answer ({record.error}: {record.detail}): see --url")

    async def _pulse(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            self._lags.append(max(0.0, time.perf_counter() - before - TICK))

    async def _open(self) -> None:
        """Open loop: every chat starts when it is due."""
        tasks = []
        for conversation in simulated_chats(self._test.load):
            if not await self._reach(conversation.start):
                break
            tasks.append(asyncio.create_task(self._converse(conversation, conversation.start)))
        await asyncio.gather(*tasks)

    async def _reach(self, moment: float) -> bool:
        """Waits until `moment`; returns False if that is past the duration."""
        if self._test.duration is not None and moment > self._test.duration:
            return False
        await asyncio.sleep(max(0.0, moment - self._now()))
        return True

    async def _closed(self) -> None:
        """Closed loop: `concurrency` clients, each of which starts its next chat when the last one ends."""
        everything = simulated_chats(self._test.load)
        await asyncio.gather(*(self._client(everything) for _ in range(self._test.load.concurrency)))

    async def _client(self, everything: Iterator[SimulatedChat]) -> None:
        for conversation in everything:
            if not await self._reach(self._now()):
                return
            await self._converse(conversation, self._now())

    async def _converse(self, conversation: SimulatedChat, due: float) -> None:
        """Runs one chat. It ends at the first turn that fails, as later turns need its answer."""
        said: list[str] = []
        for index, turn in enumerate(conversation.turns):
            if index and not await self._reach(due := self._now() + turn.pause):
                return
            record = Record(len(self._records), conversation.number, index, due)
            self._records.append(record)
            answer = await self._ask(record, messages(conversation.prefix, [*said, turn.text]), turn)
            if answer is None:
                return
            said += [turn.text, answer.text]

    async def _ask(self, record: Record, said: list[dict[str, str]], turn: ChatTurn) -> Answer | None:
        test, answer = self._test, None
        record.sent = self._now()
        self._watch(record, False)
        try:
            sending = stream(test.server, *self._request(said, turn), lambda: record.chunks.append(self._now()))
            answer = await asyncio.wait_for(sending, test.timeout)
            _, record.prompt_tokens, record.output_tokens, record.cached_tokens = answer
        except Failure as failure:
            record.error, record.detail = failure.kind, str(failure)
        except asyncio.TimeoutError:
            record.error, record.detail = "timeout", f"no end within {test.timeout:g} s"
        record.ended = self._now()
        self._watch(record, True)
        return answer

    def _request(self, said: list[dict[str, str]], turn: ChatTurn) -> tuple[str, dict[str, Any]]:
        test = self._test
        body: dict[str, Any] = {"model": test.model, "max_tokens": turn.max_tokens, "temperature": test.temperature}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if test.chat:
            return CHAT, body | {"messages": said} | test.extra
        return COMPLETIONS, body | {"prompt": "\n\n".join(message["content"] for message in said)} | test.extra


def messages(prefix: str | None, said: list[str]) -> list[dict[str, str]]:
    """Returns a request's messages: user turns and answers alternate. The prefix becomes the system message."""
    roles = ("user", "assistant")
    system = [{"role": "system", "content": prefix}] if prefix else []
    return [*system, *({"role": roles[index % 2], "content": text} for index, text in enumerate(said))]


def to_json(test: LoadTest) -> dict[str, Any]:
    """The load test as JSON types, without the API key."""
    names = ("model", "chat", "temperature", "timeout", "duration", "extra")
    return {"url": test.server.url, **{name: getattr(test, name) for name in names}, "load": asdict(test.load)}
