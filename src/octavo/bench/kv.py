"""The KV cache under pressure: how fast each of its formats decodes, and what a pool that is too small costs.

Formats are compared at one context, in turns. Pools hold a share of the blocks that a load of sequences has at its end;
all sequences finish, because preempted ones run again. All engines share one set of weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from octavo.ahead import create
from octavo.assembly.engine import Assembly, assemble, engine_config, make_backend
from octavo.backends.base import Backend, Progress
from octavo.engine import Engine
from octavo.errors import ConfigError
from octavo.kv.planner import blocks_for, token_bytes
from octavo.sampling_params import SamplingParams
from octavo.types import Request, Sequence

DECODED = 32  # tokens that are timed at the context
PROMPT, ANSWER = 256, 64  # tokens of each sequence of the load


@dataclass(frozen=True, slots=True)
class KvBench:
    context: int  # tokens at which decoding is timed
    pools: tuple[int, ...]  # per cent of what the load needs
    sequences: int  # of the load
    repeat: int

    def check(self) -> None:
        for name, least in (("context", 16), ("sequences", 1), ("repeat", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if any(not 0 < share <= 100 for share in self.pools):
            raise ConfigError("pool must be per cents above 0 and up to 100, such as 100,50,20,5")


def load(model: str | Path, bench: KvBench, settings: Mapping[str, Any], progress: Progress | None = None) -> Assembly:
    """The model, with a pool for the whole load. Raises ConfigError for a bench that measures nothing, and errors of
    `assemble`."""
    bench.check()
    made = {**settings, "max_num_seqs": bench.sequences, "speculative_config": None}
    made["max_model_len"] = max(bench.context + DECODED, PROMPT + ANSWER) + 1
    made["num_kv_blocks"] = demand(bench, settings.get("block_size") or 16)
    return assemble(model, engine_config(**made), progress=progress)


def demand(bench: KvBench, block_size: int) -> int:
    """Blocks of the load at its end."""
    return bench.sequences * blocks_for(PROMPT + ANSWER, block_size)


def speeds(parts: Assembly, bench: KvBench, dtypes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One row for each dtype: tokens per second of one sequence at the context, from the fastest step."""
    best = dict.fromkeys(dtypes, 1e9)
    for _ in range(bench.repeat):
        for dtype in dtypes:
            engine, backend = made(parts, dtype, blocks_for(bench.context + DECODED + 1, parts.cache_config.block_size))
            best[dtype] = min(best[dtype], fastest_step(engine, prompt(parts, bench.context, 0)))
            backend.close()
    for dtype, seconds in best.items():
        yield {
            "what": "speed",
            "kv_cache_dtype": dtype,
            "kv_token": token_bytes(parts.model.attention, dtype),
            "context": bench.context,
            "decode_tok_s": round(1 / seconds, 2),
            "speedup": round(best[dtypes[0]] / seconds, 3),
        }


def fastest_step(engine: Engine, ids: list[int]) -> float:
    """Seconds of the fastest step that decodes one token after these."""
    [answer] = engine.add(Request("speed", ids, SamplingParams(temperature=0, max_tokens=DECODED, ignore_eos=True)))
    seconds = 1e9
    while engine.has_work:
        before, start = answer.num_output_tokens, time.perf_counter()
        engine.step()
        if before:
            seconds = min(seconds, time.perf_counter() - start)
    return seconds


def pressure(parts: Assembly, bench: KvBench) -> Iterator[dict[str, Any]]:
    """One row for each pool: the load's throughput and preemptions, of the fastest run."""
    size = parts.cache_config.block_size
    first: tuple[float, list[list[int]]] | None = None
    for share in bench.pools:
        blocks = max(blocks_for(PROMPT + ANSWER + 1, size), demand(bench, size) * share // 100)
        runs = [run_load(parts, bench, blocks) for _ in range(bench.repeat)]
        seconds, preemptions, outputs = min(runs, key=lambda run: run[0])
        speed = bench.sequences * ANSWER / seconds
        first = first or (speed, outputs)
        yield {
            "what": "pressure",
            "kv_cache_dtype": parts.cache_config.dtype,
            "pool_percent": share,
            "num_kv_blocks": blocks,
            "tok_s": round(speed, 2),
            "of_first": round(speed / first[0], 3),
            "preemptions": preemptions,
            "same_output": outputs == first[1],
        }


def run_load(parts: Assembly, bench: KvBench, blocks: int) -> tuple[float, int, list[list[int]]]:
    """(seconds, preemptions, outputs) of the load over a pool of this many blocks."""
    engine, backend = made(parts, parts.cache_config.dtype, blocks)
    params = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
    start = time.perf_counter()
    answers: list[Sequence] = []
    for i in range(bench.sequences):
        answers += engine.add(Request(f"load-{i}", prompt(parts, PROMPT, i), params))
    while engine.has_work:
        engine.step()
    seconds = time.perf_counter() - start
    backend.close()
    return seconds, engine.stats.preemptions, [answer.token_ids[PROMPT:] for answer in answers]


def made(parts: Assembly, dtype: str, blocks: int) -> tuple[Engine, Backend]:
    """An engine with this cache, on the weights of `parts`."""
    config = replace(parts.config, kv_cache_dtype=dtype, num_kv_blocks=blocks)
    cache = replace(parts.cache_config, dtype=dtype, num_blocks=blocks)
    backend = make_backend(parts.model, config, cache, None, parts.backend)
    return create(backend, config, cache, parts.model.vocab_size), backend


def prompt(parts: Assembly, length: int, seed: int) -> list[int]:
    low, high = 10, min(20000, parts.model.vocab_size)
    return [int(token) for token in np.random.default_rng(seed).integers(low, high, length)]
