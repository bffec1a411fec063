"""The thread pool under ThreadSanitizer, and what its idle workers cost."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from octavo import _native

NATIVE = Path(__file__).parents[2] / "native"


def test_thread_sanitizer_finds_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [Path(__file__).with_name("pool.cpp"), NATIVE / "threads.cpp"]
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{NATIVE}"]
    build = subprocess.run(
        [compiler, *flags, *map(str, sources), "-o", str(tmp_path / "pool")], capture_output=True, text=True
    )
    if "tsan" in build.stderr and build.returncode:
        pytest.skip("this compiler has no ThreadSanitizer library")
    assert build.returncode == 0, build.stderr
    # Address-space randomisation can leave no room for the sanitizer's shadow memory.
    command = ["setarch", "-R", str(tmp_path / "pool")] if shutil.which("setarch") else [str(tmp_path / "pool")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout == "ok\n", run.stdout + run.stderr


def test_idle_workers_sleep() -> None:
    pool = _native.Pool(4)
    assert pool.threads == 4
    time.sleep(0.1)  # past the time that workers spin for the next step
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05  # of 2 core-seconds that spinning workers would take
