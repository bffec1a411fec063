"""The benchmark's workload and arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.bench import engine
from octavo.bench.workload import Timing, Workload, measure, prompts
from octavo.errors import ConfigError
from tests.tiny import Tiny, write_tiny_gguf


def test_prompts_are_the_same_for_every_engine():
    (first, second), (again, _) = prompts(2, 5, seed=3), prompts(2, 5, seed=3)
    assert first == again != second and all(1000 <= token <= 20000 for token in first + second)
    assert prompts(1, 3) == [[13623, 14781, 2326]]  # what the peers' scripts get from seed 0
    assert all(token < 320 for token in prompts(1, 100, vocab_size=320)[0])


def test_speeds_follow_from_the_times():
    """An engine that takes 10 us a prompt token and 1 ms a generated one."""
    asked = []

    def generate(ids: list[list[int]], tokens: int) -> Timing:
        asked.append(tuple(map(tuple, ids)))
        slowness = len(asked)  # the best try counts
        return Timing(slowness * 1e-5 * sum(map(len, ids)), slowness * 1e-3 * (tokens - 1), len(ids) * (tokens - 1))

    rows = list(measure(Workload((2,), prompt_tokens=1000, gen_tokens=20, repeat=2), generate))
    assert [(row["batch"], row["prompt_tokens"]) for row in rows] == [(2, 1000), (1, 512)]
    assert rows[0]["prefill_tok_s"] == pytest.approx(1e5 / 2) and rows[0]["decode_tok_s"] == pytest.approx(2000 / 2)
    assert len(asked) == len(set(asked)), "no prompt comes twice"
    beginnings = [ids[:16] for batch in asked for ids in batch]
    assert len(beginnings) == len(set(beginnings)), "nor begins like another: a prefix cache would help"


def test_nothing_is_found_in_a_cache_and_nobody_is_preempted(tmp_path: Path):
    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(context=1024))
    workload = Workload((3,), prompt_tokens=20, gen_tokens=4, repeat=1, vocab_size=320)
    parts = engine.load(path, workload, {"enable_prefix_caching": True, "max_num_seqs": 1})
    rows = list(engine.run(parts, workload))
    stats = parts.engine.stats
    assert stats.prefix_hits == 0 and stats.preemptions == 0
    assert stats.generation_tokens == 4 + 5 * 3 + 5
    assert rows[0]["control_us"] > 0 and rows[0]["processor_us"] > 0
    parts.close()


def test_a_workload_that_measures_nothing_is_refused(tmp_path: Path):
    for bad in (Workload(()), Workload((0,)), Workload((1,), gen_tokens=0), Workload((1,), repeat=0)):
        with pytest.raises(ConfigError, match="must be at least 1"):
            engine.load(tmp_path, bad, {})
