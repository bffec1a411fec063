"""Long streams with kv_eviction=sink_recent: what they cost in quality, memory and time.

    python -m bench.streams [--model smollm2-135m] [--tokens 20000] [--window 2032] [FILE...]

`text`: perplexity of each 1,000 tokens of a text (by default this repository's documentation), against windows that
are computed anew: each 500 tokens with the tokens before them, 2,048 in all. `generated`: a greedy answer, for its
speed and memory alone; a small model soon repeats itself. Both pass the model's own context. Memory is the most KV
blocks that were held, and the growth of the process between the first 1,000 tokens and the end.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from octavo import LLM, SamplingParams
from octavo.assembly.engine import assemble, engine_config
from octavo.types import Request

PART = 1_000  # tokens whose perplexity is one figure
STRIDE, WINDOW = 500, 2_048  # of the windows that are computed anew


def text_ids(llm: LLM, files: list[Path], count: int) -> list[int]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    ids = llm.get_tokenizer().encode(text)[:count]
    assert len(ids) == count, f"the text has {len(ids)} tokens: give more files"
    return ids


def scores(llm: LLM, ids: list[int], policy: str | None) -> list[float]:
    """The logprob of each token but the first."""
    params = SamplingParams(max_tokens=0, prompt_logprobs=0, kv_eviction=policy)
    [output] = llm.generate([ids], params, use_tqdm=False)
    assert output.prompt_logprobs is not None
    entries = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return [entry[token].logprob for token, entry in entries if entry is not None]


def anew(llm: LLM, ids: list[int]) -> list[float]:
    """The same with windows of at most WINDOW tokens, each computed from nothing."""
    out = scores(llm, ids[:WINDOW], "none")
    for stop in range(WINDOW + STRIDE, len(ids) + STRIDE, STRIDE):
        stop, done = min(stop, len(ids)), len(out) + 1
        if done < stop:
            out += scores(llm, ids[max(0, stop - WINDOW) : stop], "none")[-(stop - done) :]
    return out


def parts(values: list[float]) -> Iterator[float]:
    for start in range(0, len(values), PART):
        piece = values[start : start + PART]
        yield math.exp(-sum(piece) / len(piece))


def text(model: str, files: list[Path], tokens: int, policy: str) -> None:
    with LLM(model, max_model_len=4_096, kv_cache_memory=256 << 20, enable_prefix_caching=False) as llm:
        ids = text_ids(llm, files, tokens)
        start = time.perf_counter()
        kept = scores(llm, ids, policy)
        middle = time.perf_counter()
        whole = anew(llm, ids)
        seconds = middle - start, time.perf_counter() - middle
    worst = 0.0
    print(f"{'tokens':>14} {'sink_recent':>12} {'anew':>8} {'ratio':>7}")
    for number, (a, b) in enumerate(zip(parts(kept), parts(whole), strict=True)):
        worst = max(worst, a / b - 1)
        print(f"{number * PART:>6}..{min((number + 1) * PART, tokens):>6} {a:12.3f} {b:8.3f} {a / b:7.3f}")
    total = [math.exp(-sum(each) / len(each)) for each in (kept, whole)]
    print(f"all: {total[0]:.3f} against {total[1]:.3f}; worst part {100 * worst:+.1f} %")
    print(f"seconds: {seconds[0]:.1f} against {seconds[1]:.1f}")


def generated(model: str, tokens: int, policy: str) -> None:
    config = engine_config(max_model_len=4_096, kv_cache_memory=256 << 20, enable_prefix_caching=False)
    made = assemble(model, config)
    engine, process = made.engine, psutil.Process()
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, kv_eviction=policy)
    [seq] = engine.add(Request("stream", made.tokenizer.encode("Once upon a time"), params))
    most, first, speeds, start = 0, 0, [], time.perf_counter()
    while engine.has_work:
        engine.step()
        most = max(most, len(seq.block_table))
        if len(seq.token_ids) % PART == 0:
            now = time.perf_counter()
            speeds.append(PART / (now - start))
            start, first = now, first or process.memory_info().rss
    growth = (process.memory_info().rss - first) / 2**20
    made.close()
    blocks = f"at most {most} blocks of {made.cache_config.block_size} tokens"
    print(f"generated {tokens}: {blocks}, {growth:+.1f} MiB of memory")
    print("tokens/s of each 1,000: " + " ".join(f"{speed:.0f}" for speed in speeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="a text")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=WINDOW - 16)
    parser.add_argument("--only", choices=("text", "generated"))
    given = parser.parse_args()
    policy = f"sink_recent(16, {given.window})"
    if given.only != "generated":
        text(given.model, given.files or sorted(Path("docs").glob("*.md")), given.tokens, policy)
    if given.only != "text":
        generated(given.model, given.tokens, policy)


if __name__ == "__main__":
    main()
