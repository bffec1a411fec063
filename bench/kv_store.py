"""What the store below the KV pool gains: `python -m bench.kv_store restart|pool MODEL`.

restart: the time to the first token of a long prompt, computed, and in a new process from the disk. The file's pages
are dropped from the page cache before half of the runs.
pool: requests on a pool of 5 % of what they need, with each preemption mode. Modes take turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from octavo import LLM, SamplingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("restart", "pool"))
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, help="4,000 for restart, 16 for pool")
    parser.add_argument("--gen-tokens", type=int, default=112)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--modes", default="recompute,swap")
    parser.add_argument("--folder", help="on the disk to measure; by default a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        restart(given, Path(folder)) if given.what == "restart" else pool(given, Path(folder))


def restart(given: argparse.Namespace, folder: Path) -> None:
    length = given.prompt_tokens or 4000
    settings = {"max_model_len": length + 16, "kv_disk_cache": str(folder), "kv_disk_gb": 1}
    for number in range(1 + 2 * given.repeat):
        if dropped := number > given.repeat:
            drop_pages(folder)
        fields = in_a_process(first_token, given.model, length, settings)
        kind = "computed" if number == 0 else "from disk" if dropped else "from page cache"
        print(json.dumps({"run": kind, **fields}), flush=True)


def first_token(model: str, length: int, settings: dict[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    with LLM(model, **settings) as llm:
        loaded = time.perf_counter()
        ids = random.Random(0).choices(range(1000, 20_000), k=length)
        stream = llm.stream({"prompt_token_ids": ids}, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
        next(stream)
        ttft = time.perf_counter() - loaded
        stats = llm.parts.engine.cache.store.stats  # type: ignore[attr-defined]
        tokens, seconds = stats.external_hits, stats.load_seconds
        stream.close()
    return {"start_s": round(loaded - begin, 2), "ttft_s": round(ttft, 3), "loaded_tokens": tokens,
            "load_s": round(seconds, 3), "mb": round(stats.swap_bytes_in / 1e6)}  # fmt: skip


def pool(given: argparse.Namespace, folder: Path) -> None:
    prompt = given.prompt_tokens or 16
    blocks = -(-(prompt + given.gen_tokens) // 16)
    settings = {"num_kv_blocks": max(blocks + 1, given.requests * blocks // 20), "max_model_len": 16 * blocks}
    for number in range(given.repeat):
        for mode in given.modes.split(","):
            store = {"kv_disk_cache": str(folder / f"{mode}{number}"), "kv_disk_gb": 1, "preemption_mode": mode}
            shape = (given.requests, prompt, given.gen_tokens)
            print(
                json.dumps({"mode": mode, **in_a_process(throughput, given.model, shape, settings | store)}), flush=True
            )


def throughput(model: str, shape: tuple[int, int, int], settings: dict[str, Any]) -> dict[str, Any]:
    count, prompt, tokens = shape
    rng = random.Random(0)
    prompts = [rng.choices(range(1000, 20_000), k=prompt) for _ in range(count)]
    with LLM(model, **settings) as llm:
        begin = time.perf_counter()
        llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True),
            use_tqdm=False,
        )
        seconds, stats = time.perf_counter() - begin, llm.parts.engine.stats
        store = llm.parts.engine.cache.store.stats  # type: ignore[attr-defined]
        return {
            "tokens_s": round(count * tokens / seconds, 1),
            "seconds": round(seconds, 1),
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "blocks": settings["num_kv_blocks"],
            "loaded_tokens": store.external_hits,
            "load_s": round(store.load_seconds, 2),
            "drops": store.store_drops,
        }


def in_a_process(function: Any, *arguments: Any) -> Any:
    """A fresh process for each run: nothing is left in memory."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def drop_pages(folder: Path) -> None:
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


if __name__ == "__main__":
    main()
