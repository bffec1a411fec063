"""Measures the control plane's time per decode step (schedule, build, commit) on the null backend.

    python -m octavo.bench.control_plane [--batch 1,4,16,64,256] [--steps 1000] [--json]

The short path (`scheduler.decode`) and the ordinary path take turns in one run, so a busy machine slows both alike.
Figures are medians in microseconds. The ratio is the median over pairs of turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from typing import Any

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.types import Request

VOCAB = 32000
PROMPT = 64
TURN = 25  # steps on one path before switching to the other
PARTS = ("schedule", "build", "commit")
PATHS = {True: "short", False: "ordinary"}
Sample = tuple[float, ...]  # microseconds of each of PARTS in one step


def measure(batch: int, steps: int, temperature: float) -> dict[str, Any]:
    """Returns a row of medians for decode steps with `batch` sequences, and the ratio short / ordinary."""
    engine = _decoding(batch, steps, temperature)
    turns: dict[bool, list[list[Sample]]] = {True: [], False: []}
    for _ in range(max(1, steps // (2 * TURN))):
        for short, taken in turns.items():
            engine.scheduler.short_path = short
            taken.append([_step(engine) for _ in range(TURN)])
    row: dict[str, Any] = {"batch": batch, "temperature": temperature}
    for short, name in PATHS.items():
        samples = [sample for turn in turns[short] for sample in turn]
        row |= {
            f"{name}_{part}": _median(values) for part, values in zip(PARTS, zip(*samples, strict=True), strict=True)
        }
        row[f"{name}_us"] = _median(map(sum, samples))
    pairs = zip(turns[True], turns[False], strict=True)
    ratios = [_median(map(sum, short)) / _median(map(sum, ordinary)) for short, ordinary in pairs]
    return row | {"ratio": round(statistics.median(ratios), 3)}


def _decoding(batch: int, steps: int, temperature: float) -> Engine:
    """An engine whose sequences have their first token and room for `steps` more."""
    length = PROMPT + steps + 2 * TURN + 2
    cache = CacheConfig(num_blocks=batch * -(-length // 16))
    config = EngineConfig(max_model_len=length, max_num_seqs=batch, max_num_batched_tokens=max(512, batch))
    engine = Engine(NullBackend(cache, VOCAB), config, cache, VOCAB)
    params = SamplingParams(temperature=temperature, max_tokens=length - PROMPT, top_p=0.9 if temperature else 1.0)
    for index in range(batch):  # prompt lengths differ, so that blocks fill up at different steps
        tokens = [(index * 31 + i) % VOCAB for i in range(PROMPT - index % 16)]
        engine.add(Request(str(index), tokens, params, seed=index))
    while engine.stats.generation_tokens < batch:
        engine.step()
    return engine


def _step(engine: Engine) -> Sample:
    before = [getattr(engine.stats, f"{part}_seconds") for part in PARTS]
    engine.step()
    after = [getattr(engine.stats, f"{part}_seconds") for part in PARTS]
    return tuple(1e6 * (late - early) for early, late in zip(before, after, strict=True))


def _median(values: Iterable[float]) -> float:
    return round(float(statistics.median(values)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,4,16,64,256")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    columns = ["batch", "temperature", *(f"{name}_{part}" for name in PATHS.values() for part in (*PARTS, "us"))]
    if not arguments.json:
        print(*(f"{column:>17}" for column in [*columns, "ratio"]))
    for batch in map(int, arguments.batch.split(",")):
        for temperature in (0.0, 0.8):
            row = measure(batch, arguments.steps, temperature)
            print(json.dumps(row) if arguments.json else " ".join(f"{value:>17}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
