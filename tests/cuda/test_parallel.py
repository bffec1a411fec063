"""Tensor parallelism: two processes over gloo give the bits of one, each with half of the matrices and of the cache."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from octavo.backends.plan.shard import Share, sharded
from octavo.errors import ConfigError
from octavo.models.registry import load_model
from tests.tiny import Tiny, write_tiny_gguf

ROOT = Path(__file__).parents[2]


def run(path: Path, ranks: int) -> list[tuple[np.ndarray, int, int]]:
    """(logits, bytes of weights, of the cache) of each rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [path.with_suffix(f".{rank}-{ranks}.npy") for rank in range(ranks)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.cuda.ranks"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), address, str(path), str(out)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    found = []
    for process, out in zip(processes, outs, strict=True):
        printed, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
        weights, kv = printed.split()[-2:]
        found.append((np.load(out), int(weights), int(kv)))
    return found


@pytest.mark.parametrize(
    "tiny",
    [
        Tiny("gemma3", layers=2),
        Tiny("qwen2", type="Q8_0", layers=1, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128),
    ],
    ids=["gemma3", "qwen2 Q8_0"],
)
def test_two_ranks_have_the_bits_of_one(tiny: Tiny, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", tiny)
    ((want, weights, kv),) = run(path, 1)
    for logits, share_of_weights, share_of_kv in run(path, 2):
        assert logits.tobytes() == want.tobytes()
        assert share_of_kv == kv // 2 and share_of_weights < weights


def test_what_cannot_be_cut_is_named(tmp_path: Path) -> None:
    model = load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny("llama", heads=4, kv_heads=2)))
    with pytest.raises(ConfigError, match="tensor_parallel_size is 3, which does not divide the model's 2 KV heads"):
        sharded(model, Share(0, 3))
