"""Streams one answer to the terminal and times it. Ctrl-C stops it; the engine stays usable."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from octavo.offline.llm import LLM
from octavo.outputs import LogprobMap, OutputDelta
from octavo.processing.inputs import Prompt
from octavo.sampling_params import SamplingParams


@dataclass(slots=True)
class Answer:
    """The answer so far. Times are from `time.perf_counter()`; `first` and `last` are those of its tokens."""

    num_prompt_tokens: int
    start: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobMap] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    interrupted: bool = False

    def take(self, delta: OutputDelta) -> None:
        if delta.token_ids:
            self.last = time.perf_counter()
            self.first = self.first or self.last
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or []
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason

    @property
    def prefill_seconds(self) -> float:
        return (self.first or time.perf_counter()) - self.start

    @property
    def decode_seconds(self) -> float:
        return (self.last or 0.0) - (self.first or 0.0)

    @property
    def prefill_tok_s(self) -> float:
        """Speed over the prompt tokens that were not in the prefix cache."""
        return (self.num_prompt_tokens - self.num_cached_tokens) / max(self.prefill_seconds, 1e-9)

    @property
    def decode_tok_s(self) -> float:
        """Speed over the tokens after the first, which belongs to prefill."""
        return max(len(self.token_ids) - 1, 0) / max(self.decode_seconds, 1e-9)


def stream(llm: LLM, prompt: Prompt, params: SamplingParams, show: Callable[[str], None]) -> Answer:
    """Streams the answer to `show` and returns it. After Ctrl-C it is incomplete, and `interrupted` is set."""
    stats = llm.parts.engine.stats
    prompt_before, hits_before = stats.prompt_tokens, stats.prefix_hits
    answer = Answer(0)
    with interruptible(answer), closing(llm.stream(prompt, params)) as deltas:
        for delta in deltas:
            answer.take(delta)
            show(delta.text)
            if answer.interrupted:
                break
    answer.num_prompt_tokens = stats.prompt_tokens - prompt_before
    answer.num_cached_tokens = stats.prefix_hits - hits_before
    if answer.interrupted:
        answer.finish_reason = "abort"
    return answer


@contextmanager
def interruptible(answer: Answer) -> Iterator[None]:
    """Lets Ctrl-C stop the answer at its next token, between two steps of the engine. A second Ctrl-C stops at once.

    Before the first token Ctrl-C stops at once too, because a long prompt takes a while. Nearly all of that time is one
    native call, and an interrupt after it leaves the engine consistent.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if answer.first is None or answer.interrupted:
            raise KeyboardInterrupt
        answer.interrupted = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    except KeyboardInterrupt:
        answer.interrupted = True
    finally:
        signal.signal(signal.SIGINT, before)


def write(text: str) -> None:
    """Writes to standard output and flushes."""
    sys.stdout.write(text)
    sys.stdout.flush()
