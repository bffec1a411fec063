"""What the store below the KV pool gains: `python -m bench.kv_store restart|pool MODEL`.

restart: the time to the first token of a long prompt, computed, and in a new process from the disk. The file's pages
are dropped from the page cache before half of the runs.
pool: conversations on a pool of 5 % of what they need at their end, with each preemption mode, and without a store
(none). Modes take turns.
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
from octavo.kv.offload import OffloadedCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("restart", "pool"))
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, help="4,000 for restart, 16 for pool")
    parser.add_argument("--gen-tokens", type=int, default=112)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1, help="of each conversation; each adds a prompt and an answer")
    parser.add_argument("--modes", default="none,swap", help="none, recompute, swap, auto")
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
        cache = llm.parts.engine.cache
        assert isinstance(cache, OffloadedCache)
        stats = cache.store.stats
        tokens, seconds = stats.external_hits, stats.load_seconds
        stream.close()
    return {"start_s": round(loaded - begin, 2), "ttft_s": round(ttft, 3), "loaded_tokens": tokens,
            "load_s": round(seconds, 3), "mb": round(stats.swap_bytes_in / 1e6)}  # fmt: skip


def pool(given: argparse.Namespace, folder: Path) -> None:
    prompt = given.prompt_tokens or 16
    blocks = -(-given.turns * (prompt + given.gen_tokens) // 16)
    settings = {"num_kv_blocks": max(blocks + 1, given.requests * blocks // 20), "max_model_len": 16 * blocks}
    for number in range(given.repeat):
        for mode in given.modes.split(","):
            store = {"kv_disk_cache": str(folder / f"{mode}{number}"), "kv_disk_gb": 2, "preemption_mode": mode}
            shape = (given.requests, prompt, given.gen_tokens, given.turns)
            made = settings if mode == "none" else settings | store
            print(json.dumps({"mode": mode, **in_a_process(throughput, given.model, shape, made)}), flush=True)


def throughput(model: str, shape: tuple[int, int, int, int], settings: dict[str, Any]) -> dict[str, Any]:
    count, prompt, tokens, turns = shape
    rng, params = random.Random(0), SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    texts: list[list[int]] = [[] for _ in range(count)]
    with LLM(model, **settings) as llm:
        begin = time.perf_counter()
        for _ in range(turns):
            texts = [ids + rng.choices(range(1000, 20_000), k=prompt) for ids in texts]
            answers = llm.generate([{"prompt_token_ids": ids} for ids in texts], params, use_tqdm=False)
            texts = [ids + answer.outputs[0].token_ids for ids, answer in zip(texts, answers, strict=True)]
        seconds, stats = time.perf_counter() - begin, llm.parts.engine.stats
        made = {
            "tokens_s": round(count * turns * tokens / seconds, 1),
            "seconds": round(seconds, 1),
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "blocks": settings["num_kv_blocks"],
        }
        if (store := getattr(llm.parts.engine.cache, "store", None)) is None:
            return made
        loaded = {"loaded_tokens": store.stats.external_hits, "load_s": round(store.stats.load_seconds, 2)}
        return made | loaded | {"drops": store.stats.store_drops}


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
