"""What it costs that a sequence's KV blocks are scattered over the pool: decoding with both orders of free blocks.

    python -m bench.locality [--model smollm2-135m] [--context 4096] [--tokens 32] [--rounds 7]

Prints the best milliseconds a token of each order, taken in turn, and their ratio.
"""

from __future__ import annotations

import argparse
import random
import time

from octavo.assembly.engine import assemble, engine_config
from octavo.kv.paged import PagedCache
from octavo.sampling_params import SamplingParams
from octavo.types import Request

ORDERS = ("side by side", "scattered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--context", type=int, default=4_096)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    blocks = 3 * given.context // 16
    parts = assemble(
        given.model,
        engine_config(max_model_len=given.context + 2 * given.rounds * given.tokens + 64, num_kv_blocks=2 * blocks),
    )
    cache = parts.engine.cache
    assert isinstance(cache, PagedCache)
    best = dict.fromkeys(ORDERS, float("inf"))
    sequences = {}
    ids = [7 + i % 997 for i in range(given.context - 1)]
    for order in ORDERS:  # both stay in the pool; one is preempted while the other is timed
        cache.pool._free.sort(reverse=True)
        if order == "scattered":
            random.Random(1).shuffle(cache.pool._free)
        params = SamplingParams(temperature=0, max_tokens=given.rounds * given.tokens + 1, ignore_eos=True)
        [sequences[order]] = parts.engine.add(Request(order, ids, params, cache_salt=order))
        while sequences[order].num_output_tokens == 0:
            parts.engine.step()
        parts.engine.scheduler._queue.running.remove(sequences[order])
    for _ in range(given.rounds):
        for order, seq in sequences.items():
            queue = parts.engine.scheduler._queue
            queue.running.append(seq)
            queue.changes += 1
            start = time.perf_counter()
            for _ in range(given.tokens):
                parts.engine.step()
            best[order] = min(best[order], (time.perf_counter() - start) / given.tokens)
            if seq in queue.running:
                queue.running.remove(seq)
            queue.changes += 1
    for order, seconds in best.items():
        print(f"{order:14} {1e3 * seconds:7.3f} ms a token")
    print(f"scattered / side by side: {best['scattered'] / best['side by side']:.3f}")


if __name__ == "__main__":
    main()
