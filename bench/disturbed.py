"""What a busy neighbour on one of the cores costs: a report, for a machine that does nothing else.

    python -m bench.disturbed [--model smollm2-135m] [--rounds 5] [--rival-cpu 1]

A loop runs on one core while one sequence decodes; each line is the median of the rounds. `share` is the CPU time that
the loop leaves of all cores of this process: a decode that loses nothing more runs at `share` times its undisturbed
speed, and the goal is three quarters of that. `apart` is a loop in a session of its own, as another user's program is:
with Linux's autogroups a nice value counts only inside a session, so this loop gets half of its core in any case.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from octavo import LLM, SamplingParams
from octavo.weights.sources import resolve

LOOP = "import os, sys; os.nice(int(sys.argv[1])); os.sched_setaffinity(0, {int(sys.argv[2])})\nwhile True: pass"
RIVALS = {"nice 0": (0, False), "nice 10": (10, False), "nice 0, apart": (0, True)}
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def rival(nice: int, apart: bool, cpu: int) -> Iterator[int]:
    """Yields the process id of a loop that keeps `cpu` busy until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(nice), str(cpu)], start_new_session=apart)
    try:
        time.sleep(0.3)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rate(llm: LLM, tokens: int) -> float:
    """Tokens a second of one greedy sequence."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    begin = time.monotonic()
    llm.generate("Once upon a time", params, use_tqdm=False)
    return tokens / (time.monotonic() - begin)


def disturbed(llm: LLM, tokens: int, nice: int, apart: bool, cpu: int) -> tuple[float, float]:
    """Tokens a second beside a rival, and the share of the CPU time that it left."""
    cores = len(os.sched_getaffinity(0))
    with rival(nice, apart, cpu) as pid:
        used, begin = cpu_seconds(pid), time.monotonic()
        speed = rate(llm, tokens)
        used, elapsed = cpu_seconds(pid) - used, time.monotonic() - begin
    return speed, 1 - used / (elapsed * cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rival-cpu", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with LLM(resolve(args.model), enable_prefix_caching=False, max_model_len=args.tokens + 16) as llm:
        rate(llm, args.tokens)
        seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in RIVALS}
        for _ in range(args.rounds):
            for name, (nice, apart) in RIVALS.items():
                alone = rate(llm, args.tokens)
                seen[name].append((alone, *disturbed(llm, args.tokens, nice, apart, args.rival_cpu)))
    for name, runs in seen.items():
        alone = statistics.median(run[0] for run in runs)
        speed = statistics.median(run[1] for run in runs)
        share = statistics.median(run[2] for run in runs)
        print(
            f"{name:14} {alone:6.1f} -> {speed:6.1f} tokens/s: {speed / alone:.2f} of undisturbed, share {share:.2f},"
            f" {speed / alone / share:.2f} of it (goal 0.75)"
        )


if __name__ == "__main__":
    main()
