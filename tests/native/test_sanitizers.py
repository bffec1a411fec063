"""The sanitizers find the mistakes that they are for. Runs only in the build that `scripts/test-asan` makes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from octavo import _native

CODE = "from octavo import _native; cache = _native.KvCache([(1, 16)], 1, 16, 0); "

pytestmark = pytest.mark.skipif(not hasattr(_native.ops, "overrun"), reason="a build without sanitizers")


@pytest.mark.parametrize(
    ("mistake", "report"),
    [
        ("_native.ops.overrun(cache, cache.bytes)", "AddressSanitizer: heap-buffer-overflow"),
        ("_native.ops.overrun(cache, -1)", "AddressSanitizer: heap-buffer-overflow"),
        ("_native.ops.overflow(2**31 - 1)", "runtime error: signed integer overflow"),
    ],
)
def test_a_mistake_ends_the_process(mistake: str, report: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE + mistake], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and report in done.stderr, done.stderr


def test_what_is_in_bounds_is_fine() -> None:
    cache = _native.KvCache([(1, 16)], 1, 16, 0)
    _native.ops.overrun(cache, cache.bytes - 1)
    assert _native.ops.overflow(1) == 2
