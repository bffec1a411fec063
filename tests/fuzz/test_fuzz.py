"""A short run of the fuzzers; the long one is `python -m tests.fuzz.fuzz_gguf`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import fuzz_gguf, fuzz_safetensors
from tests.fuzz.mutate import fuzz

Make = Callable[[Path], tuple[bytes, int, Path]]


@pytest.mark.parametrize(
    ("make", "read"), [(m.make, m.read) for m in (fuzz_gguf, fuzz_safetensors)], ids=("gguf", "st")
)
def test_mutated_files_are_refused_or_usable(tmp_path: Path, make: Make, read: Callable[[Path], None]) -> None:
    raw, header, path = make(tmp_path)
    read(path)
    tally = fuzz(raw, header, path, read, iterations=3000, seed=7)
    assert tally.accepted + tally.rejected == 3000
    assert tally.rejected > 1000 and tally.accepted > 50  # the mutations reach both sides
