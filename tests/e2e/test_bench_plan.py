"""`octavo bench` and `octavo plan`: the output that scripts read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.cli import octavo
from tests.models import model_path

WORKLOAD = ("--batch", "1,4", "--prompt-tokens", "24", "--gen-tokens", "8", "--repeat", "3")


def test_bench_prints_a_json_object_a_line(tiny: Path, tmp_path: Path):
    from tests.tiny import Tiny, write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(context=1024))
    done = octavo("bench", path, *WORKLOAD, "--json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    head, *rows = map(json.loads, done.stdout.splitlines())
    assert head["engine"] == "octavo" and head["version"] and head["startup_s"] > 0
    assert head["threads"] == 1 and head["barriers_per_layer"] > 1
    assert [(row["batch"], row["prompt_tokens"]) for row in rows] == [(1, 24), (4, 24), (1, 512)]
    for row in rows:
        assert row["gen_tokens"] == 8 and row["prefill_tok_s"] > 0
        assert row["decode_tok_s"] is None or row["decode_tok_s"] > 0  # None: eight tiny steps were lost in noise
        assert row["preemptions"] == 0 and row["control_us"] > 0 and row["processor_us"] > 0 and row["peak_rss"] > 1e7


def test_bench_shows_a_person_a_table(tmp_path: Path):
    from tests.tiny import Tiny, write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(context=1024))
    done = octavo("bench", path, *WORKLOAD, "--kv-cache", "contiguous", "--scheduler", "static", "--profile")
    assert done.returncode == 0, done.stderr
    assert "prefill" in done.stdout and "barriers per layer" in done.stdout
    assert "decode, batch 4, prompt 24" in done.stdout and "attention" in done.stdout


def test_a_profile_needs_the_cpu_backend(tmp_path: Path):
    from tests.tiny import Tiny, write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(context=1024))
    done = octavo("bench", path, *WORKLOAD, "--backend", "null", "--profile")
    assert done.returncode == 2 and "has no profile: choose cpu or cuda" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_plan_predicts_smollm2_in_numbers_of_its_architecture():
    settings = ("--max-model-len", "2048", "--kv-cache-memory", "100M", "--kv-disk-cache", "kv", "--kv-disk-gb", "1")
    done = octavo("plan", model_path("smollm2-135m"), *settings, "--json")
    made = json.loads(done.stdout)
    assert made["kv_token"] == 2 * 30 * 3 * 64 * 2  # K and V, layers, KV heads, head size, bf16
    assert made["kv_sequence"] == 2048 * made["kv_token"]
    assert made["tiers"] == {"disk": 2**30 // made["kv_token"]}
    assert made["kv_pool"] <= 100 * 2**20 < made["kv_pool"] + 16 * made["kv_token"]
    assert made["max_sequences"] == 2 and made["fits"] is True
    assert made["total"] == made["weights"] + made["scratch"] + made["kv_pool"]
