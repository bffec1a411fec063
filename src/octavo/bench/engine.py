"""Measures the engine on the shared workload."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octavo import __version__
from octavo.assembly.engine import Assembly, assemble, engine_config
from octavo.backends.base import ProfiledBackend, Progress
from octavo.backends.cpu.backend import CpuBackend
from octavo.bench.limits import Limits, current
from octavo.bench.usage import peak_rss
from octavo.bench.work import fractions, work_of
from octavo.bench.workload import Timing, Workload, measure
from octavo.errors import ConfigError
from octavo.kv.planner import blocks_for
from octavo.offline.driver import Driver
from octavo.outputs import OutputDelta
from octavo.sampling_params import SamplingParams
from octavo.types import Request


def load(
    model: str | Path, workload: Workload, settings: Mapping[str, Any], progress: Progress | None = None
) -> Assembly:
    """Loads the model with room for the largest batch, and without a prefix cache, which would inflate the speeds.

    settings: fields of EngineConfig; a length or KV cache size among them is kept. Raises ConfigError for a workload
    that measures nothing, and all errors of `assemble`.
    """
    check_workload(workload)
    if settings.get("kv_disk_cache") or settings.get("kv_ram_gb"):
        raise ConfigError("this measures without a prefix cache: leave out kv_disk_cache and kv_ram_gb")
    made = {**settings, "max_num_seqs": max(workload.batches), "enable_prefix_caching": False}
    longest = max(length for _, length in workload.rows()) + workload.gen_tokens + 1
    made["max_model_len"] = made.get("max_model_len") or longest
    if not (made.get("num_kv_blocks") or made.get("kv_cache_memory")):
        made["num_kv_blocks"] = blocks_needed(workload, made)
    return assemble(model, engine_config(**made), progress=progress)


def check_workload(workload: Workload) -> None:
    counts = {"batch": min(workload.batches, default=0), "prompt_tokens": workload.prompt_tokens}
    counts |= {"gen_tokens": workload.gen_tokens, "repeat": workload.repeat}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}")


def blocks_needed(workload: Workload, settings: Mapping[str, Any]) -> int:
    """Returns the most blocks that a row needs. The contiguous cache reserves max_model_len for every sequence."""
    size, contiguous = settings.get("block_size") or 16, settings.get("kv_cache") == "contiguous"
    rows = [(batch, length + workload.gen_tokens + 1) for batch, length in workload.rows()]
    return max(batch * blocks_for(settings["max_model_len"] if contiguous else length, size) for batch, length in rows)


def run(
    parts: Assembly, workload: Workload, limits: Limits | None = None, profile: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields one row per batch: the workload's fields and the engine's own figures.

    control_us: median microseconds per step of the control plane (schedule, build, commit).
    processor_us: median microseconds per step for turning tokens into text.
    preemptions: above 0 the KV cache was too small, and the speeds mean little.
    peak_rss: bytes so far.
    With `limits`, each speed as a fraction of its limit: see `octavo.bench.work.fractions`.
    speculation: counts of drafted and accepted tokens over all runs, if speculation is on.
    profile: seconds of each operation over all runs, if asked for: see `ProfiledBackend`.
    """
    work = work_of(parts.model, parts.cache_config.dtype) if limits else None
    driver, stats = Driver(parts.engine, parts.tokenizer), parts.engine.stats
    control: list[float] = []  # seconds of each step of the row
    processor: list[float] = []
    totals = (0.0, 0.0)

    def generate(ids: list[list[int]], tokens: int) -> Timing:
        nonlocal totals
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        totals = (stats.control_seconds, driver.processor_seconds)
        begin = first = time.perf_counter()
        begun: set[str] = set()
        later = 0

        def watch(new: list[OutputDelta]) -> None:
            nonlocal totals, first, later
            control.append(stats.control_seconds - totals[0])
            processor.append(driver.processor_seconds - totals[1])
            totals = (stats.control_seconds, driver.processor_seconds)
            if len(begun) == len(ids):
                later += sum(len(delta.token_ids) for delta in new)
            else:
                begun.update(delta.request_id for delta in new if delta.token_ids)
                first = time.perf_counter()

        driver.generate([(Request(str(i), prompt, params), None) for i, prompt in enumerate(ids)], watch)
        return Timing(first - begin, time.perf_counter() - first, later)

    profiled = profiled_backend(parts) if profile else None
    preemptions, earlier = stats.preemptions, copy.deepcopy(stats)
    for row in measure(workload, generate):
        yield {
            "engine": "octavo",
            **row,
            "control_us": round(1e6 * statistics.median(control), 1),
            "processor_us": round(1e6 * statistics.median(processor), 1),
            "preemptions": stats.preemptions - preemptions,
            "peak_rss": peak_rss(),
            **(fractions(row, work, limits) if work and limits else {}),
            **({"profile": profiled.profiled()} if profiled else {}),
            **({"speculation": stats.since(earlier).speculation()} if parts.config.speculative_config else {}),
        }
        control.clear()
        processor.clear()
        if profiled:
            profiled.profile(True)
        preemptions, earlier = stats.preemptions, copy.deepcopy(stats)


def profiled_backend(parts: Assembly) -> ProfiledBackend:
    """Returns the backend with profiling switched on. Raises ConfigError for a backend that cannot profile."""
    if not isinstance(parts.backend, ProfiledBackend):
        raise ConfigError(f"backend {parts.config.backend} has no profile: choose cpu or cuda")
    parts.backend.profile(True)
    return parts.backend


def machine(parts: Assembly) -> Limits | None:
    """Returns the limits for the CPU backend's instruction set and threads; None for the other backends."""
    return current(parts.backend.isa, parts.backend.threads) if isinstance(parts.backend, CpuBackend) else None


def describe(parts: Assembly, startup_seconds: float, limits: Limits | None = None) -> dict[str, Any]:
    """The first output line: what is measured, and the start-up time. Memory is in bytes."""
    cpu = parts.backend if isinstance(parts.backend, CpuBackend) else None
    return {
        "engine": "octavo",
        "version": __version__,
        "startup_s": round(startup_seconds, 2),
        "model": parts.model.name,
        "backend": parts.config.backend,
        "isa": getattr(parts.backend, "isa", None),
        "threads": parts.config.backend_options.get("threads"),
        "kv_cache_dtype": parts.config.kv_cache_dtype,
        "barriers_per_layer": round(cpu.barriers(), 2) if cpu else None,
        "speculative_config": parts.config.speculative_config,
        "memory": parts.backend.memory(),
        **({"int8_gops": limits.peak("int8") / 1e9, "bandwidth_gbs": limits.bandwidth / 1e9} if limits else {}),
    }
