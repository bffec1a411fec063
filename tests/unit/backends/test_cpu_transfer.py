"""Copies within the CPU backend's KV pool: moves first, then copies, each in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo.backends.cpu.backend import CpuBackend
from octavo.config import CacheConfig
from octavo.models.registry import load_model
from octavo.types import F32
from tests.batches import Row, make_batch, transfers
from tests.tiny import write_tiny_gguf

IDS = np.random.default_rng(3).integers(0, 320, 40).tolist()


@pytest.fixture
def backend(tmp_path: Path) -> CpuBackend:
    cache = CacheConfig(num_blocks=8, block_size=16, dtype="f32")
    return CpuBackend(load_model(write_tiny_gguf(tmp_path / "m.gguf")), cache, threads=1, max_tokens=64, max_seqs=2)


def last(backend: CpuBackend, row: Row) -> F32:
    logits = backend.run(make_batch([row], want_logits=True)).logits
    assert logits is not None
    return logits


def test_what_was_moved_and_copied_is_what_was_computed(backend: CpuBackend) -> None:
    """A token is moved away, over another one, and back; then the block is copied over two blocks."""
    want = last(backend, Row(IDS))
    last(backend, Row(IDS[:39]))
    backend.transfer(transfers([(38, 100), (100, 101), (101, 38)], [(2, 6), (6, 7)]))
    assert last(backend, Row(IDS[39:], start=39, table=[0, 1, 7])).tobytes() == want.tobytes()
    backend.transfer(transfers([(37, 7 * 16 + 6)]))  # the wrong key
    assert last(backend, Row(IDS[39:], start=39, table=[0, 1, 7])).tobytes() != want.tobytes()
