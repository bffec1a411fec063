"""The ARM kernels, cross-compiled and under emulation, against those of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_arm_gives_the_same_bits(tmp_path: Path) -> None:
    missing = [tool for tool in ("g++", "aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt install g++ g++-aarch64-linux-gnu qemu-user")
    run = subprocess.run([ROOT / "scripts/test-arm", "--keep", tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("all equal\n")
