"""Metrics of one model's engine, for /metrics, the live page and Retry-After."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from typing import Any

from octavo.server.generation.inbox import Generation

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
DRAFTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 32)
RECENT = 256  # number of latencies kept for the live page
WINDOW = 60  # seconds of throughput kept for the live page

HISTOGRAMS = {
    "time_to_first_token_seconds": (SECONDS, "From arrival to the first token."),
    "inter_token_latency_seconds": (SECONDS, "Between the tokens of one answer."),
    "request_time_per_output_token_seconds": (SECONDS, "Mean time a token of a request, without the first."),
    "e2e_request_latency_seconds": (SECONDS, "From arrival to the end of the answer."),
    "request_queue_time_seconds": (SECONDS, "From arrival to the first step with the request."),
    "request_prefill_time_seconds": (SECONDS, "From the first step to the first token."),
    "request_decode_time_seconds": (SECONDS, "From the first token to the last."),
    "request_prompt_tokens": (TOKENS, "Prompt tokens of a request."),
    "request_generation_tokens": (TOKENS, "Tokens that a request generated."),
    "iteration_tokens_total": (TOKENS, "Tokens of an engine step."),
}


class Histogram:
    """counts[i]: number of values above bounds[i - 1], up to bounds[i]. The last: values above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class EngineMetrics:
    """stats: the latest counters of the running engine process. base: the summed counters of earlier processes."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(bounds) for name, (bounds, _) in HISTOGRAMS.items()}
        self.finished: Counter[str] = Counter()  # number of requests by finish reason
        self.cached_tokens = 0  # prompt tokens that came from the prefix cache
        self.stats: dict[str, Any] = {}
        self.fragmentation = 0.0
        self.device_used = 0  # bytes of the device's memory, taken by any process
        self.base: defaultdict[str, float] = defaultdict(float)
        self._counted: defaultdict[str, Counter[Any]] = defaultdict(Counter)
        self.recent_ttft: deque[float] = deque(maxlen=RECENT)
        self.recent_itl: deque[float] = deque(maxlen=RECENT)
        self._per_second: deque[tuple[int, int]] = deque(maxlen=WINDOW)  # (second, tokens)

    def step(self, tokens: int, stats: dict[str, Any] | None) -> None:
        """tokens: query tokens of an engine's step, 0 for an abort. stats: None if they are not due yet."""
        if tokens:
            self.histograms["iteration_tokens_total"].add(tokens)
        if stats is not None:
            self.stats = stats

    def engine_gone(self) -> None:
        """Adds the counters of the process that ended to `base`, because the next process starts at 0."""
        for name, value in self.stats.items():
            if isinstance(value, dict):
                self._counted[name].update(value)
            elif isinstance(value, int | float):
                self.base[name] += value
        self.stats = {}

    def total(self, name: str) -> int:
        """A counter, summed over all engine processes so far."""
        return int(self.base[name]) + int(self.stats.get(name, 0))

    def seconds(self, name: str) -> float:
        """A time, summed over all engine processes so far."""
        return self.base[name] + float(self.stats.get(name, 0.0))

    def counted(self, name: str) -> Counter[Any]:
        """A labelled counter, summed over all engine processes so far."""
        return self._counted[name] + Counter(self.stats.get(name, {}))

    def gauge(self, name: str) -> Any:
        return self.stats.get(name, 0)

    def draft_lengths(self) -> Histogram:
        histogram = Histogram(DRAFTS)
        for length, times in self.counted("draft_lengths").items():
            histogram.add(length, times)
        return histogram

    def tokens(self, generation: Generation, index: int, count: int, now: float) -> None:
        last = generation.last_tokens.get(index)
        if last is not None:
            self.histograms["inter_token_latency_seconds"].add(now - last)
            self.recent_itl.append(now - last)
        elif not generation.last_tokens:
            waited = now - generation.request.arrival
            self.histograms["time_to_first_token_seconds"].add(waited)
            self.recent_ttft.append(waited)
        generation.last_tokens[index] = now
        second = int(now)
        if self._per_second and self._per_second[-1][0] == second:
            count += self._per_second.pop()[1]
        self._per_second.append((second, count))

    def ended(self, generation: Generation, reason: str, now: float) -> None:
        self.finished[reason] += 1
        request, output = generation.request, generation.output
        made, times = generation.num_output_tokens, output.metrics
        scheduled, first = times.first_scheduled_time, times.first_token_time
        self.cached_tokens += output.num_cached_tokens
        add = self._add
        add("request_prompt_tokens", len(request.prompt_token_ids))
        add("request_generation_tokens", made)
        add("e2e_request_latency_seconds", now - request.arrival)
        if scheduled is not None:
            add("request_queue_time_seconds", scheduled - request.arrival)
        if first is not None:
            add("request_prefill_time_seconds", first - (scheduled or request.arrival))
            add("request_decode_time_seconds", now - first)
            if (length := made / request.params.n) > 1:
                add("request_time_per_output_token_seconds", (now - first) / (length - 1))

    def _add(self, name: str, value: float) -> None:
        self.histograms[name].add(max(value, 0.0))

    def tokens_per_second(self, window: int = 10) -> float:
        """Mean throughput over the last `window` complete seconds."""
        now = int(time.monotonic())
        return sum(count for second, count in self._per_second if now - window <= second < now) / window

    def throughput(self) -> list[int]:
        """Tokens in each of the last WINDOW seconds. The last entry is the current second, which is incomplete."""
        now, by_second = int(time.monotonic()), dict(self._per_second)
        return [by_second.get(second, 0) for second in range(now - WINDOW + 1, now + 1)]
