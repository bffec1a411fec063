"""Fused operations give the same bits as separate ones. (test_plan_fuse.py checks which operations are left.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo.backends.cpu.backend import CpuBackend
from octavo.config import CacheConfig
from octavo.models.registry import build_model
from octavo.weights.gguf import open_gguf
from tests.batches import Row, make_batch
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_same_bits_whatever_other_rows_are_wanted(tmp_path: Path, family: str) -> None:
    """70 rows are three rounds of the head: the trunk's results must still be there in the last round."""
    model = build_model(open_gguf(write_tiny_gguf(tmp_path / "m.gguf", Tiny(family, vocab=317, tied=False))))
    cache = CacheConfig(num_blocks=32, block_size=16, dtype="f32")
    backend = CpuBackend(model, cache, threads=2, max_tokens=128, max_seqs=4)
    ids = np.random.default_rng(0).integers(0, 317, 77).tolist()

    def logits(all_rows: bool) -> np.ndarray:
        rows = [Row(ids[:70], all_rows=all_rows), Row(ids[70:], table=[10], all_rows=all_rows)]
        found = backend.run(make_batch(rows, want_logits=True, want_hidden=True))
        assert found.logits is not None and found.hidden is not None
        return np.concatenate([found.logits, found.hidden], axis=-1)

    every = logits(True)
    assert every.shape[0] == 77
    assert logits(False).tobytes() == every[[69, 76]].tobytes()
