"""Tokens a second of the whole engine: batches of 1 to 256, with graphs and without, one step ahead and not.

Decoding is measured beside prompts of 1,024 tokens that are not computed: `Promptless` answers them, and their keys are
what the pool holds, random numbers. Prompts have a measurement of their own."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import torch

from bench.device import steps
from bench.device.models import ONE, SHAPES, Shape, decoder, random_weights
from bench.device.report import Report
from octavo import ahead
from octavo.assembly.engine import engine_config, resolve_config
from octavo.backends.base import Backend
from octavo.backends.cuda.device import OPTIONS
from octavo.backends.cuda.launch import INTERPRETED
from octavo.backends.registry import device
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.ir import Model
from octavo.sampling_params import SamplingParams
from octavo.types import Batch, Request, StepResult, Transfers

CONTEXT = 2 if INTERPRETED else 1024
TOKENS = 1 if INTERPRETED else 64  # steps that are timed
LEAD = 3 if INTERPRETED else 140  # tokens that the first sequence has by the time the last one begins
LONGEST = CONTEXT + LEAD + TOKENS + 1
BATCHES = (2,) if INTERPRETED else (1, 16, 64, 256)
GRAPHS = "cuda_graphs"  # the backend's option
TARGETS = {  # docs/cuda.md
    "1.5B Q4_K": (900, 11_000, 30_000, 45_000),
    "8B bf16": (155, 2_300, 6_600, 12_500),
    "8B int4": (340, 4_200, 8_500, 11_000),
}


def run(report: Report) -> None:
    for name, shape in (ONE if INTERPRETED else SHAPES).items():
        for graphs in ((True,) if INTERPRETED else (True, False)) if GRAPHS in OPTIONS else (None,):
            if report.left < 40:
                report.add(f"{name}: no time left", "left out")
                continue
            with made(shape, graphs) as (model, config, cache, backend):
                for batch in BATCHES:
                    for wants_ahead in (
                        (True, False) if graphs is not False and hasattr(backend, "submit") else (False,)
                    ):
                        rate = decode(model, config, cache, backend, batch, wants_ahead)
                        title = f"{name}, batch {batch}, {mode(graphs, wants_ahead)}"
                        report.add(title, rate, f"tokens/s, target {TARGETS[name][BATCHES.index(batch)]:,}")
                prefill(report, f"{name}, {mode(graphs, False)}", model, backend)


def mode(graphs: bool | None, wants_ahead: bool) -> str:
    return f"{'graphs' if graphs else 'eager'}, {'one ahead' if wants_ahead else 'synchronous'}"


@contextmanager
def made(shape: Shape, graphs: bool | None, **settings: Any) -> Iterator[tuple[Model, EngineConfig, CacheConfig, Any]]:
    model = decoder(shape)
    defaults: dict[str, Any] = {
        "backend": "cuda", "max_model_len": LONGEST, "max_num_seqs": max(BATCHES), "kv_cache_dtype": "bf16",
        "max_num_batched_tokens": 64 if INTERPRETED else 2048, "enable_prefix_caching": False,
        "num_kv_blocks": steps.blocks(max(BATCHES), LONGEST),
    }  # fmt: skip
    if graphs is not None:
        defaults[GRAPHS] = "on" if graphs else "off"
    config, cache = resolve_config(model, engine_config(**(defaults | settings)), 0)
    with random_weights():
        backend: Any = device("cuda").make(model, config, cache, None, None)
    backend.pool.data.normal_()
    yield model, config, cache, backend
    backend.close()
    del backend
    gc.collect()
    if not INTERPRETED:
        torch.cuda.empty_cache()


def decode(
    model: Model, config: EngineConfig, cache: CacheConfig, backend: Backend, batch: int, wants_ahead: bool
) -> float:
    """Tokens a second, from the moment when every sequence decodes."""
    promptless = (PromptlessAhead if wants_ahead else Promptless)(backend, model.vocab_size)
    engine = (ahead.create if wants_ahead else Engine)(promptless, config, cache, model.vocab_size)
    generate(engine, model, batch, min(TOKENS, 3))  # compiles, captures
    return generate(engine, model, batch, TOKENS)


def generate(engine: Engine, model: Model, batch: int, count: int) -> float:
    """Tokens a second over `count` steps in which all sequences decode. The first ones decode before: LEAD tokens."""
    dice = np.random.default_rng(batch)
    params = SamplingParams(temperature=0, max_tokens=LEAD + TOKENS, ignore_eos=True)
    for i in range(batch):
        engine.add(Request(str(i), dice.integers(0, model.vocab_size, CONTEXT).tolist(), params))
    begun: set[str] = set()
    while len(begun) < batch:
        begun |= {delta.request_id for delta in engine.step() if delta.token_ids}
    begin = time.perf_counter()
    made = sum(len(delta.token_ids) for _ in range(count) for delta in engine.step())
    took = time.perf_counter() - begin
    for i in range(batch):
        engine.abort(str(i))
    while engine.has_work:
        engine.step()
    return made / took


class Promptless:
    """A backend that gives prompts a token without computing them."""

    def __init__(self, inner: Any, vocab: int):
        self.inner, self.vocab = inner, vocab

    def run(self, batch: Batch) -> StepResult:
        if is_prompt(batch):
            return self.answer(batch)
        result: StepResult = self.inner.run(batch)
        return result

    def answer(self, batch: Batch) -> StepResult:
        rows = len(batch.logit_rows)
        ids = (np.arange(rows, dtype=np.int32) * 7 + 1) % self.vocab
        return StepResult(ids.astype(np.int32), np.ones(rows, np.bool_))

    def transfer(self, transfers: Transfers) -> None:
        self.inner.transfer(transfers)

    def share(self, model: Model) -> Backend:
        raise NotImplementedError("nothing measured here drafts with a part of the model")

    def memory(self) -> dict[str, int]:
        found: dict[str, int] = self.inner.memory()
        return found

    def close(self) -> None: ...


class PromptlessAhead(Promptless):
    """The same with `submit`. A step behind a prompt may refer to tokens that the device never saw."""

    before: StepResult | None = None

    def submit(self, batch: Batch) -> Any:
        if self.before is not None and (batch.token_ids < 0).any():
            known = self.before.token_ids[np.maximum(-1 - batch.token_ids, 0)]
            ids = np.where(batch.token_ids < 0, known, batch.token_ids).astype(np.int32)
            batch = msgspec.structs.replace(batch, token_ids=ids)
        self.before = None
        if not is_prompt(batch):
            return self.inner.submit(batch)
        self.before = self.answer(batch)
        return Known(self.before)


class Known:
    def __init__(self, result: StepResult):
        self._result = result

    def result(self) -> StepResult:
        return self._result


def is_prompt(batch: Batch) -> bool:
    return len(batch.token_ids) > len(batch.context_lens)


def prefill(report: Report, name: str, model: Model, backend: Backend) -> None:
    tokens = 3 if INTERPRETED else 1024
    batch = steps.prompt(tokens, model.vocab_size)
    backend.run(batch)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        backend.run(batch)
        times.append(time.perf_counter() - begin)
    report.add(f"{name}, a prompt of {tokens}", tokens / min(times), "tokens/s")
