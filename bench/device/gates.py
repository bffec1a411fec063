"""tests/cuda on the GPU: kernels near float64 with poisoned buffers, one order of sums over tokens and tiles, parts and
whole, trees and chains, tiny models near the reference backend, requests alone and in company."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bench.device.report import Report
from octavo.backends.cuda.launch import INTERPRETED

ROOT = Path(__file__).parents[2]
WORKERS = 8  # processes: compiling takes most of the time
ON_A_GPU = [
    f"tests/cuda/test_{name}.py"
    for name in ("elementwise", "encodings", "matmul", "attention", "tail", "families", "invariance")
]
DRY = "tests/cuda/test_elementwise.py"  # what a dry run runs of it


def run(report: Report) -> None:
    environment = {**os.environ, "OCTAVO_TEST_GPU": "0" if INTERPRETED else "1"}
    files = [DRY] if INTERPRETED else [*ON_A_GPU, f"-n{WORKERS}", "--dist=worksteal"]
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-m", "not slow", "-p", "no:cacheprovider", *files]
    seconds = max(30.0, min(report.left - 30, 240))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        report.add("tests/cuda", f"not done after {seconds:.0f} s", "failed")
        return
    for line in done.stdout.splitlines():
        if line.startswith("FAILED"):
            report.add(line.removeprefix("FAILED ")[:300], "no", "failed")
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    report.add("tests/cuda", re.sub(r"[= ]+$|^[= ]+", "", last), "" if done.returncode == 0 else "failed")
    if done.returncode:
        report.add("end of the output", (done.stdout + done.stderr)[-1500:], "failed")
