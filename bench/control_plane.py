"""What the control plane costs a step: schedule, build and commit of decode steps on the null backend.

    python bench/control_plane.py [--batch 1,4,16] [--steps 2000] [--json]

A step costs the time of `Engine.step()` less that of `backend.run()`; medians, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.types import Request, SamplingParams

VOCAB = 32000
PROMPT = 64


def measure(batch: int, steps: int, temperature: float) -> dict[str, float]:
    """Microseconds of the control plane a decode step, `batch` sequences decoding: median and 99th percentile."""
    length = PROMPT + steps + 1
    cache = CacheConfig(num_blocks=batch * -(-length // 16))
    config = EngineConfig(max_model_len=length, max_num_seqs=batch, max_num_batched_tokens=max(512, batch))
    engine = Engine(NullBackend(cache, VOCAB), config, cache, VOCAB)
    params = SamplingParams(temperature=temperature, max_tokens=steps, top_p=0.9 if temperature else 1.0)
    for index in range(batch):
        engine.add(Request(str(index), [(index * 31 + i) % VOCAB for i in range(PROMPT)], params, seed=index))
    while engine.scheduler.stats.generation_tokens < batch:
        engine.step()
    samples = []
    while engine.has_work:
        before = engine.stats.control_seconds
        engine.step()
        samples.append(1e6 * (engine.stats.control_seconds - before))
    return {
        "median_us": round(statistics.median(samples), 1),
        "p99_us": round(statistics.quantiles(samples, n=100)[98], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for batch in map(int, arguments.batch.split(",")):
        for temperature in (0.0, 0.8):
            row = {"batch": batch, "temperature": temperature, **measure(batch, arguments.steps, temperature)}
            print(json.dumps(row) if arguments.json else "  ".join(f"{key} {value:>6}" for key, value in row.items()))


if __name__ == "__main__":
    main()
