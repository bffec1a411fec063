"""The launch table in machine code, for an A100 and an H100: it compiles, fits, and spills no more than is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TAIL = "tail, 152k tokens"
MODELS = (
    "1.5B Q4_K", "8B BF16", "8B Q6_K, int8 KV", "gemma 4B Q8_0", "1.5B F32, f32 KV",
    "odd BF16", "odd F32, int8 KV", "odd Q8_0, f32 KV", TAIL,
)  # fmt: skip
ROOT = Path(__file__).parents[2]
SPILLS = {90: {"attend": 96}, 80: {"attend": 384, "dense": 168, "add_parts": 8}}  # bytes; docs/cuda.md says why
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that a program may have


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("model", MODELS)
def test_every_launch_compiles_and_fits(capability: int, model: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    command = [sys.executable, "-m", "tests.cuda.compiled", str(capability), model]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = {each["kernel"] for each in found}
    assert kernels >= {"best", "greedy", "edit", "sample", "logprobs"}
    if model != TAIL:
        assert kernels >= {"norm", "heads", "attend", "add_parts", "gated", "gather"}
    for each in found:
        assert each["shared"] <= SHARED[capability], each
        assert each["registers"] <= 255 and each["stack"] <= SPILLS[capability].get(each["kernel"], 0), each
        if each["kernel"] in ("quantised", "dense", "attend") and "F32" not in model:
            assert each["mma"], each
        if each["mma"]:
            assert each["mma_columns"] == ["16"], "every tensor core instruction sums the same columns"
    if model != TAIL:
        same_order_of_sums(found)


def same_order_of_sums(found: list[dict[str, Any]]) -> None:
    """Attention in parts and whole, and the matmul's tiles: docs/cuda.md, "One order of sums"."""
    forms = {whole: {tuple(e["layouts"]) for e in found if e.get("WHOLE") is whole} for whole in (True, False)}
    assert forms[True] == forms[False] and len(forms[True]) == 1, forms
    (layouts,) = forms[True]
    assert any(each.startswith("dot") for each in layouts), layouts
    assert any(each.startswith("sum") for each in layouts), layouts
    assert all("warpsPerCTA = [rows, 1]" in each for each in layouts), "no two warps share a row"
    for each in found:
        if each["kernel"] in ("quantised", "dense"):
            assert not any(layout.startswith("sum") for layout in each["layouts"]), each
