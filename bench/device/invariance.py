"""64 mixed requests on a model of real widths: alone, together, in small chunks, with and without graphs and one step
ahead. Tokens and logprobs must be the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.device import engine as engines
from bench.device.models import ONE, SHAPES
from bench.device.report import Report
from octavo import ahead
from octavo.backends.cuda.device import OPTIONS
from octavo.backends.cuda.launch import INTERPRETED
from octavo.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.types import Request

LAYERS = 1 if INTERPRETED else 4
REQUESTS, TOKENS, LONGEST = (2, 1, 4) if INTERPRETED else (64, 12, 700)
Answers = dict[str, list[tuple[int, float]]]


def run(report: Report) -> None:
    for name, shape in (ONE if INTERPRETED else SHAPES).items():
        if report.left < 30:
            report.add(f"{name}: no time left", "left out")
            continue
        shape = shape._replace(layers=LAYERS)
        want = answers(shape, False, False, together=False)
        for title, settings in variants().items():
            found = answers(shape, together=True, **settings)
            wrong = [key for key in want if found[key] != want[key]]
            report.add(f"{name}: {REQUESTS} requests alone == together, {title}", not wrong)
            if wrong:
                report.add(f"{name}, {title}: requests that differ", f"{len(wrong)}, {wrong[:8]}", "failed")


def variants() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        "eager": {"graphs": False, "wants_ahead": False},
        "chunks of 64": {"graphs": False, "wants_ahead": False, "max_num_batched_tokens": 64},
    }
    if engines.GRAPHS in OPTIONS:
        found["graphs"] = {"graphs": True, "wants_ahead": False}
        found["graphs, one ahead"] = {"graphs": True, "wants_ahead": True}
    return found


def answers(shape: Any, graphs: bool, wants_ahead: bool, together: bool, **settings: Any) -> Answers:
    sizes = {"max_model_len": LONGEST + TOKENS + 1, "num_kv_blocks": REQUESTS * (LONGEST // 16 + 2)}
    flag = graphs if engines.GRAPHS in OPTIONS else None
    with engines.made(shape, flag, max_num_seqs=REQUESTS, **sizes, **settings) as (model, config, cache, backend):
        engine = (ahead.create if wants_ahead else Engine)(backend, config, cache, model.vocab_size)
        found: Answers = {}
        waiting = requests(model.vocab_size)
        while waiting or engine.has_work:
            for _ in range(8 if together else 1):  # eight more before each step
                if waiting and (together or not engine.has_work):
                    engine.add(waiting.pop(0))
            for delta in engine.step():
                entries = [(entry.token_id, entry.logprob) for entry in delta.logprobs or []]
                found.setdefault(delta.request_id, []).extend(entries)
    return found


def requests(vocab: int) -> list[Request]:
    """Short and long, greedy and sampled in several ways."""
    dice = np.random.default_rng(1)
    ways: list[dict[str, Any]] = [
        {"temperature": 0}, {"temperature": 1}, {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.2},
    ]  # fmt: skip
    made = []
    for i in range(REQUESTS):
        params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, logprobs=0, **ways[i % len(ways)])
        prompt = dice.integers(0, vocab, int(dice.integers(1, LONGEST))).tolist()
        made.append(Request(str(i), prompt, params, seed=i))
    return made
