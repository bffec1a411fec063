"""Measures each speculation method against plain decoding on the shipped workloads.

Methods run in turns and the best of several runs counts. Every row says whether the output was the same. The engine
guarantees that it is.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from octavo.assembly.engine import Assembly, load_tokenizer, make_backend
from octavo.assembly.speculation import Speculation
from octavo.bench.written import Task, fitted, repeated, workloads
from octavo.sampling_params import SamplingParams
from octavo.scheduler.stats import Stats
from octavo.spec.proposer import Proposer
from octavo.spec.settings import parse
from octavo.spec.speedup import expected_tokens
from octavo.types import Request, Sequence

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
CURVE_CONTEXT = 128  # tokens of the sequence whose steps are timed for the cost curve
CURVE_STEPS = 8


@dataclass(slots=True)
class Run:
    """One workload with one method. seconds, tokens and stats start when all sequences have their first token."""

    outputs: list[list[int]]
    seconds: float
    tokens: int
    stats: Stats


@dataclass(frozen=True, slots=True)
class SpeculationBench:
    methods: dict[str, dict[str, Any]]  # label -> speculative_config
    names: tuple[str, ...]  # workloads
    batches: tuple[int, ...]
    repeat: int
    temperature: float
    tokens: int | None  # most tokens per sequence; None: the workload's own limit


def proposer_for(parts: Assembly, source: str, config: dict[str, Any]) -> Proposer:
    settings = parse(config)
    assert settings is not None
    own = (parts.engine, parts.model, parts.backend, parts.tokenizer, parts.config, parts.cache_config, source)
    return Speculation(settings, *own, make_backend, load_tokenizer).proposer()


def run(parts: Assembly, source: str, bench: SpeculationBench) -> Iterator[dict[str, Any]]:
    """Yields one row per workload, batch and method: measured speed-up, acceptance, and expected speed-up."""
    tasks = workloads(parts)
    proposers = {label: proposer_for(parts, source, config) for label, config in bench.methods.items()}
    for name in bench.names:
        for batch in bench.batches:
            assert parts.config.max_model_len is not None
            chosen = fitted(_shortened(tasks[name], bench.tokens), parts.config.max_model_len)
            yield from _rows(parts, proposers, batches(chosen, batch), bench, {"workload": name, "batch": batch})


def batches(tasks: list[Task], size: int) -> list[list[Task]]:
    """Splits the tasks into full batches. The last batch is filled with tasks from the front."""
    full = list(repeated(tasks, -(-len(tasks) // size) * size))
    return [full[start : start + size] for start in range(0, len(full), size)]


def _shortened(tasks: list[Task], tokens: int | None) -> list[Task]:
    return [replace(task, tokens=min(task.tokens, tokens or task.tokens)) for task in tasks]


def _rows(
    parts: Assembly,
    proposers: dict[str, Proposer],
    groups: list[list[Task]],
    bench: SpeculationBench,
    head: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    tries: dict[str, list[Run]] = {label: [] for label in ("none", *proposers)}
    for _ in range(bench.repeat):
        for label, done in tries.items():
            runs = [timed(parts, proposers.get(label), tasks, bench.temperature) for tasks in groups]
            done.append(reduce(_joined, runs))
    best = {label: min(done, key=lambda run: run.seconds) for label, done in tries.items()}
    plain = best["none"]
    for label, one in best.items():
        same = all(run.outputs == plain.outputs for run in tries[label])
        yield {**head, "method": label, "temperature": bench.temperature, "same_output": same, **_figures(one, plain)}


def _joined(one: Run, other: Run) -> Run:
    seconds, tokens = one.seconds + other.seconds, one.tokens + other.tokens
    return Run(one.outputs + other.outputs, seconds, tokens, one.stats.plus(other.stats))


def timed(parts: Assembly, proposer: Proposer | None, tasks: list[Task], temperature: float) -> Run:
    """Runs the tasks together. The engine is idle before and after."""
    engine = parts.engine
    requests = [
        Request(
            f"bench-{i}",
            task.prompt,
            SamplingParams(temperature=temperature, max_tokens=task.tokens),
            seed=i,
            eos_token_ids=tuple(parts.tokenizer.eos_ids) if task.ends else (),
        )
        for i, task in enumerate(tasks)
    ]
    sequences = [seq for request in requests for seq in engine.add(request)]
    engine.speculate(None)
    while any(seq.num_output_tokens < 1 for seq in sequences) and engine.has_work:
        engine.step()
    engine.speculate(proposer)
    before = sum(seq.num_output_tokens for seq in sequences)
    earlier, start = copy.deepcopy(engine.stats), time.perf_counter()
    while engine.has_work:
        engine.step()
    seconds = time.perf_counter() - start
    engine.speculate(None)
    outputs = [seq.token_ids[seq.num_prompt_tokens :] for seq in sequences]
    return Run(outputs, seconds, sum(map(len, outputs)) - before, engine.stats.since(earlier))


def _figures(one: Run, plain: Run) -> dict[str, Any]:
    """Returns the figures of one method.

    step_cost: seconds of a step, drafting included, over those of a step without drafts.
    expected: the speed-up that acceptance, mean draft length and step_cost predict.
    """
    stats, drafts = one.stats, max(1, one.stats.drafts)
    length = stats.draft_tokens / drafts
    cost = (one.seconds / max(1, stats.steps)) / (plain.seconds / max(1, plain.stats.steps))
    share = stats.drafts / max(1, one.tokens - stats.accepted_tokens)  # of the sequences' steps, those with drafts
    gained = 1 + share * (expected_tokens(stats.acceptance, round(length)) - 1)
    return {
        "tok_s": round(one.tokens / one.seconds, 2),
        "speedup": round(plain.seconds / one.seconds * one.tokens / max(1, plain.tokens), 3),
        "expected": round(gained / cost, 3),
        "acceptance": round(stats.acceptance, 3),
        "accepted_length": round(stats.mean_accepted_length, 2),
        "draft_length": round(length, 2),
        "drafted_steps": round(share, 3),
        "step_cost": round(cost, 3),
        "drafting": round(stats.draft_seconds / one.seconds, 4),
        "per_position": [round(stats.accepted_at[i] / drafts, 3) for i in range(8) if stats.accepted_at[i]],
    }


class Padding:
    """Proposes `count` tokens that are never accepted, to time steps of `count` + 1 rows."""

    def __init__(self, count: int):
        self.count = count

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts, seq.draft_parents = [seq.token_ids[-1]] * self.count, None


def cost_curve(parts: Assembly, rows: tuple[int, ...] = ROWS) -> dict[int, float]:
    """Returns rows -> T(rows) / T(1) for steps of one sequence: the best of CURVE_STEPS, taken in turns."""
    engine = parts.engine
    limit = parts.config.max_model_len or CURVE_CONTEXT
    prompt = [i % 50 + 10 for i in range(max(1, min(CURVE_CONTEXT, limit // 2)))]
    engine.speculate(None)
    engine.add(Request("curve", prompt, SamplingParams(temperature=0, max_tokens=limit - len(prompt), ignore_eos=True)))
    engine.step()
    best: dict[int, float] = {}
    for step in range(CURVE_STEPS * len(rows)):
        count = rows[step % len(rows)]
        engine.speculate(Padding(count - 1))
        before = engine.stats.backend_seconds
        engine.step()
        if engine.stats.step_tokens == count:
            best[count] = min(best.get(count, 1e9), engine.stats.backend_seconds - before)
        if not engine.has_work:
            break
    engine.speculate(None)
    engine.abort("curve")
    return {count: round(seconds / best[1], 3) for count, seconds in sorted(best.items())} if 1 in best else {}
