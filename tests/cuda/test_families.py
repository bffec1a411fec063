"""Tiny models of every family: near the reference backend, a row the same bits whatever else runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from octavo.backends.cuda.backend import CudaBackend
from octavo.backends.cuda.footprint import footprint
from octavo.backends.cuda.warm import warm_up
from octavo.backends.reference import ReferenceBackend
from octavo.config import CacheConfig
from octavo.models.registry import load_model
from octavo.types import F32, StepResult
from tests.batches import Row, make_batch, transfers
from tests.cuda.where import APART, DEVICE, GPU
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf

IDS = np.random.default_rng(0).integers(0, 320, 48).tolist()
# Largest difference of logits, which are up to 25. The interpreter cuts bf16 off instead of rounding it. int8: a value
# between two codes may be rounded to either.
NEAR = {"f32": 2e-4 * APART, "int8": 0.5 if GPU else 0.1, "bf16": 1.0}


def pair(path: Path, tiny: Tiny, kv: str, **limits: int) -> tuple[CudaBackend, ReferenceBackend]:
    model, cache = load_model(write_tiny_gguf(path / "m.gguf", tiny)), CacheConfig(8, 16, kv)
    sizes = {"max_tokens": 64, "max_seqs": 4, "max_context": 64, **limits}
    reference = ReferenceBackend(model, cache)
    for _, values in reference.cache.layers:
        values.rotated = False  # this backend rotates keys alone
    return CudaBackend(model, cache, device=DEVICE.type, **sizes), reference


def distance(found: StepResult, expected: StepResult) -> float:
    assert found.logits is not None and expected.logits is not None
    return float(np.abs(found.logits - expected.logits).max())


@pytest.mark.parametrize(
    ("family", "kv"), [(family, "f32") for family in FAMILIES] + [("qwen3", "bf16"), ("gemma3", "int8")]
)
def test_near_the_reference(tmp_path: Path, family: str, kv: str) -> None:
    """A prompt beside a second one, then both decode. The window of gemma3 is 16 tokens."""
    cuda, reference = pair(tmp_path, Tiny(family, tied=family == "gemma3"), kv)
    prompts = make_batch([Row(IDS[:33], all_rows=True), Row(IDS[33:37], table=[5, 6])], want_logits=True)
    decode = make_batch([Row(IDS[37:38], start=33), Row(IDS[38:39], start=4, table=[5, 6])], want_logits=True)
    for batch in (prompts, decode):
        assert distance(cuda.run(batch), reference.run(batch)) < NEAR[kv]


@pytest.mark.parametrize("type", ["Q4_K", "Q6_K", "Q8_0"])
def test_quantised_weights_stay_near_the_reference(tmp_path: Path, type: str) -> None:
    """f16 operands: an error of 2^-11 an operand."""
    size = {"hidden": 256, "heads": 4, "head_dim": 64, "ffn": 256, "layers": 1}
    cuda, reference = pair(tmp_path, Tiny("llama", type=type, **size), "f32")
    batch = make_batch([Row(IDS[:5], all_rows=True)], want_logits=True, want_hidden=True)
    found, expected = cuda.run(batch), reference.run(batch)
    assert distance(found, expected) < 0.1
    assert found.hidden is not None and expected.hidden is not None
    assert np.abs(found.hidden - expected.hidden).max() < 0.1


def test_more_logit_rows_than_the_head_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.backends.cuda.backend.HEAD_ROWS", 4)
    cuda, reference = pair(tmp_path, Tiny(layers=1), "f32")
    batch = make_batch([Row(IDS[:9], all_rows=True)], want_logits=True, want_hidden=True, num_logprobs=2)
    found, expected = cuda.run(batch), reference.run(batch)
    assert distance(found, expected) < NEAR["f32"]
    assert found.hidden is not None and expected.hidden is not None
    assert np.abs(found.hidden - expected.hidden).max() < 1e-3
    assert found.top_ids is not None and (found.top_ids == expected.top_ids).all()


def test_moves_come_first_then_copies_each_in_order(tmp_path: Path) -> None:
    """As tests/unit/backends/test_cpu_transfer.py, with int8's scales, which move too."""
    cuda, _ = pair(tmp_path, Tiny(layers=1), "int8")

    def last(row: Row) -> F32:
        logits = cuda.run(make_batch([row], want_logits=True)).logits
        assert logits is not None
        return logits

    want = last(Row(IDS[:40]))
    last(Row(IDS[:39]))
    cuda.transfer(transfers([(38, 100), (100, 101), (101, 38)], [(2, 6), (6, 7)]))
    assert last(Row(IDS[39:40], start=39, table=[0, 1, 7])).tobytes() == want.tobytes()
    cuda.transfer(transfers([(37, 7 * 16 + 6)]))  # the wrong key
    assert last(Row(IDS[39:40], start=39, table=[0, 1, 7])).tobytes() != want.tobytes()


@pytest.mark.parametrize(
    ("family", "kv", "type"),
    [(family, kv, "F32") for family in FAMILIES for kv in ("f32", "int8")]
    + [("llama", "bf16", type) for type in ("Q4_K", "Q8_0", "F16", "BF16")],
)
@pytest.mark.parametrize("max_tokens", [16, 300])
def test_memory_is_what_was_planned(tmp_path: Path, family: str, kv: str, type: str, max_tokens: int) -> None:
    """footprint.py's arithmetic, which needs no torch."""
    wide = {"hidden": 256, "heads": 4, "head_dim": 64, "ffn": 256} if type.endswith("K") else {}
    model = load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny(family, type=type, **wide)))
    cache, limits = CacheConfig(8, 16, kv), {"max_tokens": max_tokens, "max_seqs": 4, "max_context": 64}
    assert footprint(model, cache, **limits) == CudaBackend(model, cache, device="meta", **limits).memory()


def test_warming_up_changes_nothing(tmp_path: Path) -> None:
    cuda, reference = pair(tmp_path, Tiny(layers=1), "int8", max_tokens=20)
    batch = make_batch([Row(IDS[:20])], want_logits=True)
    assert distance(cuda.run(batch), reference.run(batch)) < NEAR["int8"]
    before = cuda.pool.data.clone(), cuda.pool.scales.clone()
    warm_up(cuda.run, 20, 16)
    assert torch.equal(cuda.pool.data, before[0]) and torch.equal(cuda.pool.scales, before[1])


def test_stale_slots_do_not_enter(tmp_path: Path) -> None:
    """NaN everywhere that the batch does not write: in the pool, in every buffer, and in the padding of the blob."""
    cuda, reference = pair(tmp_path, Tiny("qwen3", layers=1), "f32")
    cuda.pool.data.fill_(float("nan"))
    batch = make_batch([Row(IDS[:5], table=[3]), Row(IDS[5:6], table=[6])], want_logits=True)
    assert distance(cuda.run(batch), reference.run(batch)) < NEAR["f32"]
