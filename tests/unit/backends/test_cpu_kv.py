"""Quantised caches on the CPU, on models with and without biases in the k projection: near the reference backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo.backends.cpu.backend import CpuBackend
from octavo.backends.plan.key_offsets import key_offsets
from octavo.backends.reference import ReferenceBackend
from octavo.config import CacheConfig
from octavo.ir import Model
from octavo.models.registry import load_model
from octavo.types import F32
from tests import tiny
from tests.batches import Row, make_batch
from tests.tiny import Tiny, write_tiny_gguf

IDS = np.random.default_rng(3).integers(0, 320, 90).tolist()


@pytest.fixture(params=["llama", "qwen2", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """qwen2 with biases as in Qwen2.5: a few channels that rope turns slowly have most of each key's length."""
    arrays = tiny.tiny_arrays

    def outlying(of: Tiny) -> dict[str, F32]:
        made = arrays(of)
        for name, array in made.items():
            if name.endswith("attn_k.bias"):
                array.reshape(-1, of.head_dim)[:, of.head_dim // 2 - 2 : of.head_dim // 2] = 30
        return made

    monkeypatch.setattr(tiny, "tiny_arrays", outlying)
    return load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny(request.param, head_dim=32, window=40)))


def logits(backend: CpuBackend | ReferenceBackend) -> F32:
    """Of a prompt of 70 tokens in two chunks, then of tokens one by one."""
    found = []
    for start, stop in ((0, 30), (30, 70), *((i, i + 1) for i in range(70, 90))):
        result = backend.run(make_batch([Row(IDS[start:stop], start=start, all_rows=True)], want_logits=True))
        assert result.logits is not None
        found.append(result.logits)
    return np.concatenate(found)


def off(a: F32, b: F32) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("dtype", ["int8", "k8v4"])
def test_as_near_the_reference_as_rounding_allows(model: Model, dtype: str) -> None:
    """The CPU rounds queries and weights to integers too, which costs no more than the cache's own rounding."""
    exact, rounded = (logits(ReferenceBackend(model, CacheConfig(8, 16, kind))) for kind in ("f32", dtype))
    found = logits(CpuBackend(model, CacheConfig(8, 16, dtype), threads=1, max_context=128))
    lost = off(rounded, exact)
    assert 0 < off(found, rounded) < 2 * lost
    # A random model does not average values as a trained one does.
    assert lost < {"int8": 0.02, "k8v4": 0.25}[dtype] * off(exact, 0 * exact)


def test_layers_with_an_offset(model: Model) -> None:
    """Those whose keys are a linear with a bias and then rope, without a norm between."""
    found = key_offsets(model)
    if "qwen2" in model.name:
        assert sorted(found) == [0, 1] and found[0].bias.name == "blk.0.attn_k.bias"
    else:
        assert found == {}
