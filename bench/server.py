"""What the server costs, and what a long prompt costs the others: a report, for a quiet machine.

    python -m bench.server [--model smollm2-135m] [--rounds 3]

From the repository's root: it starts servers as the tests do. Each line has the goal beside what was measured.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from octavo import LLM, SamplingParams
from octavo.weights.sources import resolve
from tests.server.harness import Server, serving
from tests.server.streams import Stream, percentile

STREAMS, TOKENS = 16, 128
WORDS = "It was a bright cold day in April and the clocks were striking thirteen. "


def prompts(count: int) -> list[str]:
    return [f"Story number {number}. {WORDS * 4}" for number in range(count)]


def greedy(prompt: str, tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}


def http_share(server: Server, model: Path, rounds: int) -> str:
    """Tokens a second over HTTP and in process, the same batch of streams, in turns."""
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    offline, http = [], []
    with LLM(model, enable_prefix_caching=False) as llm:
        for _ in range(rounds):
            begin = time.monotonic()
            llm.generate(prompts(STREAMS), params, use_tqdm=False)
            offline.append(STREAMS * TOKENS / (time.monotonic() - begin))
            http.append(_http_rate(server))
    share = max(http) / max(offline)
    return f"{STREAMS} streams: {max(http):.0f} tokens/s over HTTP, {max(offline):.0f} in process: {share:.0%}"


def _http_rate(server: Server) -> float:
    begin = time.monotonic()
    bodies = [greedy(prompt, TOKENS) | {"cache_salt": str(begin)} for prompt in prompts(STREAMS)]
    streams = [Stream(server, body) for body in bodies]
    for stream in streams:
        stream.join(300)
        assert stream.complete
    return STREAMS * TOKENS / (time.monotonic() - begin)


def long_prompt(server: Server) -> str:
    """The 99th percentile of the time between tokens of 8 streams, without and with a prompt of 2,000 tokens."""

    def gaps(with_prompt: bool, salt: str) -> list[float]:
        streams = [Stream(server, greedy(salt + prompt, 200)) for prompt in prompts(8)]
        for stream in streams:
            assert stream.begun.wait(60)
        time.sleep(1)
        if with_prompt:
            status, answer = server.post("/v1/completions", greedy(salt + WORDS * 130, 1))
            assert status == 200 and answer["usage"]["prompt_tokens"] > 1900
        for stream in streams:
            stream.join(300)
        return [gap for stream in streams for gap in stream.gaps[8:]]

    gaps(True, "c ")  # the pool's memory is touched for the first time, which the system makes one wait for
    before, after = percentile(gaps(False, "a "), 0.99), percentile(gaps(True, "b "), 0.99)
    ratio = f"{after / before:.1f} times"
    return f"8 streams: p99 ITL {before * 1e3:.0f} ms, {after * 1e3:.0f} ms beside a long prompt: {ratio}"


def free_loop(server: Server) -> str:
    """How long others wait for an answer while a prompt of maximal length is computed and a longer one refused."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                begin = time.monotonic()
                assert client.get(f"{server.url}/version").status_code == 200
                waits.append(time.monotonic() - begin)
                time.sleep(0.005)

    asker = threading.Thread(target=ask)
    asker.start()
    status, answer = server.post("/v1/completions", greedy(WORDS * 190, 1))
    assert status == 200 and answer["usage"]["prompt_tokens"] > 2500, answer
    refused = server.post("/v1/completions", greedy("word " * 700_000, 1))
    over.set()
    asker.join()
    assert refused[0] == 400
    return f"{len(waits)} requests beside prompts of maximal length: p99 {percentile(waits, 0.99) * 1e3:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = resolve(arguments.model)
    with (
        tempfile.TemporaryDirectory() as logs,
        serving(model, "--max-model-len", "3072", folder=Path(logs)) as server,
    ):
        print(http_share(server, model, arguments.rounds), "(goal: 95 %)")
        print(long_prompt(server), "(goal: 2)")
        print(free_loop(server), "(goal: 50 ms)")


if __name__ == "__main__":
    main()
