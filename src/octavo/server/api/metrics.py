"""/metrics for Prometheus, with vLLM's metric names under the prefix `octavo:`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from octavo.server.api.common import state_of
from octavo.server.engine.metrics import HISTOGRAMS, Histogram
from octavo.server.runtime import Runtime

router = APIRouter()
PREFIX = "octavo:"
MODEL = "model_name"


class Row(NamedTuple):
    """value: returns the metric's value for one model."""

    name: str
    help: str
    value: Callable[[Runtime], float]


GAUGES = (
    Row("num_requests_running", "Sequences that run.", lambda r: r.metrics.gauge("running")),
    Row(
        "num_requests_waiting",
        "Sequences that wait at the engine, and requests that wait before it.",
        lambda r: r.metrics.gauge("waiting") + r.admission.waiting_requests,
    ),
    Row("kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", lambda r: r.metrics.gauge("kv_usage")),
    Row(
        "kv_fragmentation_perc",
        "Share of the slots in used KV blocks that hold no token, 0 to 1.",
        lambda r: r.metrics.fragmentation,
    ),
    Row("device_memory_bytes", "Memory of the device: the GPU, or the machine.", lambda r: _info(r, "device_memory")),
    Row("device_memory_used_bytes", "Of it, taken by any process.", lambda r: r.metrics.device_used),
    Row("engine_ready", "1 if the engine is ready, else 0.", lambda r: float(r.ready)),
)
COUNTERS = (
    Row("prefix_cache_queries", "Tokens looked up in the prefix cache.", lambda r: r.metrics.total("prefix_queries")),
    Row("prefix_cache_hits", "Tokens found in the prefix cache.", lambda r: r.metrics.total("prefix_hits")),
    Row("num_preemptions", "Sequences that gave up their blocks.", lambda r: r.metrics.total("preemptions")),
    Row("prompt_tokens", "Prompt tokens, cached ones included.", lambda r: r.metrics.total("prompt_tokens")),
    Row("prompt_tokens_cached", "Prompt tokens that came from the cache.", lambda r: r.metrics.cached_tokens),
    Row("generation_tokens", "Tokens generated.", lambda r: r.metrics.total("generation_tokens")),
    Row("kv_evicted_tokens", "Cached tokens evicted.", lambda r: r.metrics.total("evicted_tokens")),
    Row("kv_dropped_tokens", "Tokens that kv_eviction dropped.", lambda r: r.metrics.total("dropped_tokens")),
    Row(
        "external_prefix_cache_queries",
        "Tokens looked up in the tiers below the KV pool.",
        lambda r: r.metrics.total("external_queries"),
    ),
    Row(
        "external_prefix_cache_hits",
        "Tokens that came back from the tiers below the KV pool.",
        lambda r: r.metrics.total("external_hits"),
    ),
    Row("kv_load_seconds", "Seconds that sequences waited for blocks.", lambda r: r.metrics.seconds("load_seconds")),
    Row("kv_load_misses", "Loads that ended before their last block.", lambda r: r.metrics.total("load_misses")),
    Row("kv_store_drops", "Blocks that were not stored: too many waited.", lambda r: r.metrics.total("store_drops")),
    Row("kv_store_evictions", "Blocks that tiers gave up for others.", lambda r: r.metrics.total("store_evictions")),
    Row("spec_decode_num_drafts", "Drafts verified.", lambda r: r.metrics.total("drafts")),
    Row("spec_decode_num_draft_tokens", "Tokens drafted.", lambda r: r.metrics.total("draft_tokens")),
    Row("spec_decode_num_accepted_tokens", "Drafted tokens accepted.", lambda r: r.metrics.total("accepted_tokens")),
    Row("spec_draft_seconds", "Seconds spent on drafting.", lambda r: r.metrics.seconds("draft_seconds")),
    Row("engine_restarts", "Times the engine process was started again.", lambda r: r.supervisor.restarts),
    Row("engine_step_errors", "Engine steps that raised.", lambda r: r.metrics.total("backend_errors")),
)


def _info(runtime: Runtime, name: str) -> Any:
    """A field of `protocol.Ready`; 0 until the engine has been ready once."""
    return getattr(runtime.supervisor.info, name, 0)


class Figures(Collector):
    """Collects the metrics of all models. Each scrape makes a new one, so no value is stored twice."""

    def __init__(self, runtimes: list[Runtime]):
        self._runtimes = runtimes

    def collect(self) -> Iterator[Metric]:
        for row in GAUGES:
            yield self._family(GaugeMetricFamily, row)
        for row in COUNTERS:
            yield self._family(CounterMetricFamily, row)
        named = GaugeMetricFamily(PREFIX + "device_info", "1, with the device's name.", labels=[MODEL, "device"])
        for runtime in self._runtimes:
            if name := _info(runtime, "device"):
                named.add_metric([runtime.name, name], 1)
        yield named
        yield self._labelled(
            "request_success", "Requests by how they ended.", "finished_reason", lambda r: r.metrics.finished.items()
        )
        yield self._labelled(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens accepted, by their place in the draft.",
            "position",
            lambda r: ((str(place), count) for place, count in sorted(r.metrics.counted("accepted_at").items())),
        )
        yield self._labelled(
            "kv_tier_hits",
            "Blocks that came back to the KV pool, by tier.",
            "tier",
            lambda r: sorted(r.metrics.counted("tier_hits").items()),
        )
        yield self._labelled(
            "swap_bytes",
            "Bytes of KV blocks that came back to the pool (in) or were given to the tiers below it (out).",
            "direction",
            lambda r: [(way, r.metrics.total(f"swap_bytes_{way}")) for way in ("in", "out")],
        )
        for name, (_, help) in HISTOGRAMS.items():
            yield self._histogram(name, help, partial(_histogram_of, name))
        yield self._histogram("spec_draft_length", "Tokens of a draft.", lambda r: r.metrics.draft_lengths())

    def _family(self, kind: type[GaugeMetricFamily] | type[CounterMetricFamily], row: Row) -> Metric:
        family = kind(PREFIX + row.name, row.help, labels=[MODEL])
        for runtime in self._runtimes:
            family.add_metric([runtime.name], row.value(runtime))
        return family

    def _labelled(
        self, name: str, help: str, label: str, values: Callable[[Runtime], Iterable[tuple[str, int]]]
    ) -> Metric:
        family = CounterMetricFamily(PREFIX + name, help, labels=[MODEL, label])
        for runtime in self._runtimes:
            for key, value in values(runtime):
                family.add_metric([runtime.name, key], value)
        return family

    def _histogram(self, name: str, help: str, of: Callable[[Runtime], Histogram]) -> Metric:
        family = HistogramMetricFamily(PREFIX + name, help, labels=[MODEL])
        for runtime in self._runtimes:
            histogram = of(runtime)
            family.add_metric([runtime.name], list(_cumulative(histogram)), histogram.total)
        return family


def _histogram_of(name: str, runtime: Runtime) -> Histogram:
    return runtime.metrics.histograms[name]


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, int]]:
    """Cumulative counts by bound: Prometheus counts all values up to each bound."""
    count = 0
    for bound, more in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        count += more
        yield ("+Inf" if bound == float("inf") else repr(float(bound))), count


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(state_of(request).pool.runtimes))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
