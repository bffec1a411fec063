"""The figures of a load test.

    TTFT     time to first token: from the time a request was due to its first chunk with text
    ITL      inter-token latency: between two chunks of an answer
    TPOT     time per output token: from the first chunk to the last, over the tokens without the first
    E2EL     end-to-end latency: from the time a request was due to the end of its answer
    goodput  requests per second within every limit of the SLO

Latencies are in milliseconds, over the requests with a complete answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from octavo.bench.serving import Outcome, Record
from octavo.errors import ConfigError

QUANTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
LIMITS = ("ttft", "tpot", "itl", "e2el")


def parse_slo(texts: Sequence[str]) -> dict[str, float]:
    """Parses limits such as "ttft:500" into name -> milliseconds. Raises ConfigError."""
    slo = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            slo[name] = float(value)
        except ValueError:
            slo[name] = 0.0
        if name not in LIMITS or not slo[name] > 0:
            raise ConfigError(f"goodput must be NAME:MILLISECONDS with a name of {', '.join(LIMITS)}; got {text!r}")
    return slo


def ttft(record: Record) -> float:
    return 1000 * (record.chunks[0] - record.due)


def e2el(record: Record) -> float:
    return 1000 * (record.ended - record.due)


def itls(record: Record) -> list[float]:
    return [1000 * (after - before) for before, after in pairwise(record.chunks)]


def tokens(record: Record) -> int:
    """The server's token count. Without one, the number of chunks, each of which may hold several tokens."""
    return record.output_tokens or len(record.chunks)


def tpot(record: Record) -> float | None:
    """Milliseconds per output token; None for an answer of one token or one chunk."""
    if tokens(record) < 2 or len(record.chunks) < 2:
        return None
    return 1000 * (record.chunks[-1] - record.chunks[0]) / (tokens(record) - 1)


def good(record: Record, slo: dict[str, float]) -> bool:
    """Whether a complete answer is within all limits. The "itl" limit applies to every gap between chunks."""
    found = {"ttft": ttft(record), "tpot": tpot(record) or 0.0, "itl": max(itls(record), default=0.0)}
    found["e2el"] = e2el(record)
    return all(found[name] <= limit for name, limit in slo.items())


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, list(QUANTILES.values()))
    return {"mean": _round(float(np.mean(values)))} | dict(zip(QUANTILES, map(_round, found.tolist()), strict=True))


def figures(outcome: Outcome, slo: dict[str, float]) -> dict[str, Any]:
    """Returns all figures as JSON types."""
    whole = [record for record in outcome.records if record.error is None]
    seconds = max(outcome.duration, 1e-9)
    output = sum(map(tokens, whole))
    counted = [record.prompt_tokens for record in whole if record.prompt_tokens is not None]
    return {
        "duration_s": _round(outcome.duration),
        "requests": len(outcome.records),
        "completed": len(whole),
        "errors": dict(Counter(record.error for record in outcome.records if record.error).most_common()),
        "prompt_tokens": sum(counted) if len(counted) == len(whole) else None,
        "cached_tokens": sum(record.cached_tokens or 0 for record in whole),
        "output_tokens": output,
        "tokens_counted_by": "server" if all(record.output_tokens for record in whole) else "chunks",
        "request_throughput": _round(len(whole) / seconds),
        "output_throughput": _round(output / seconds),
        "ttft_ms": quantiles([ttft(record) for record in whole]),
        "tpot_ms": quantiles([value for record in whole if (value := tpot(record)) is not None]),
        "itl_ms": quantiles([value for record in whole for value in itls(record)]),
        "e2el_ms": quantiles([e2el(record) for record in whole]),
        "most_in_flight": most_in_flight(outcome.records),
        "goodput": _goodput(outcome, slo),
        "client": _client(outcome),
    }


def _goodput(outcome: Outcome, slo: dict[str, float]) -> dict[str, Any] | None:
    if not slo:
        return None
    kept = sum(good(record, slo) for record in outcome.records if record.error is None)
    share, rate = kept / max(1, len(outcome.records)), kept / max(outcome.duration, 1e-9)
    return {"slo_ms": slo, "requests": kept, "share": _round(share), "request_throughput": _round(rate)}


def _client(outcome: Outcome) -> dict[str, Any]:
    """The client's own load. If it is high, the figures describe the client, not the server."""
    late = [1000 * (record.sent - record.due) for record in outcome.records]
    return {
        "cpu_share": _round(outcome.cpu / max(outcome.duration, 1e-9)),
        "late_ms": quantiles(late),
        "loop_lag_ms": quantiles([1000 * lag for lag in outcome.lags]),
    }


def most_in_flight(records: Sequence[Record]) -> int:
    return max((count for _, count in in_flight(records)), default=0)


def in_flight(records: Sequence[Record]) -> list[tuple[float, int]]:
    """Returns (moment, number of running requests from then on) for each change."""
    changes = sorted([(record.sent, 1) for record in records] + [(record.ended, -1) for record in records])
    counts = np.cumsum([change for _, change in changes]).tolist()
    return [(moment, count) for (moment, _), count in zip(changes, counts, strict=True)]


def per_second(records: Sequence[Record], duration: float, slices: int = 60) -> list[tuple[float, float]]:
    """Returns (moment, output tokens per second) for slices of the run. A request's tokens count equally per chunk."""
    width = max(duration, 1e-9) / slices
    moments = [moment for record in records for moment in record.chunks]
    weights = [tokens(record) / len(record.chunks) for record in records for _ in record.chunks]
    sums, _ = np.histogram(moments, bins=slices, range=(0.0, slices * width), weights=weights)
    return [((index + 0.5) * width, float(total) / width) for index, total in enumerate(sums)]


def _round(value: float) -> float:
    return float(f"{value:.5g}")
