"""A GPU that fails or is full, played by exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.assembly.engine import assemble, engine_config
from octavo.backends.base import BackendLost, ProfiledBackend
from octavo.backends.cuda import backend, device
from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.lost import watched
from octavo.errors import CapacityError
from octavo.sampling_params import SamplingParams
from octavo.types import Request
from tests.batches import transfers
from tests.tiny import Tiny, write_tiny_gguf

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"


def fails(*_: Any) -> None:
    raise RuntimeError(ILLEGAL)


def test_an_error_of_the_device_is_for_good() -> None:
    with (
        pytest.raises(BackendLost, match="the GPU has failed: CUDA error: an illegal memory access"),
        watched(fails),
    ):
        fails()
    with pytest.raises(KeyError), watched(lambda: None):
        raise KeyError("a mistake of ours, after which the device works")


def test_the_engine_ends_with_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    parts = assemble(path, engine_config(backend="cuda", max_model_len=64, num_kv_blocks=8))
    parts.engine.add(Request("1", [1, 2], SamplingParams()))
    monkeypatch.setattr(backend.CudaBackend, "probe", fails)
    monkeypatch.setattr(Launch, "__call__", fails)
    with pytest.raises(BackendLost, match="illegal memory access"):
        parts.engine.step()
    assert parts.engine.has_work, "it looked for no culprit"
    with pytest.raises(BackendLost):
        parts.backend.transfer(transfers([(0, 1)]))


def test_a_full_device_is_one_line_that_names_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = (
        write_tiny_gguf(tmp_path / "m.gguf"),
        engine_config(backend="cuda", max_model_len=64, num_kv_blocks=8),
    )

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(backend, "CudaBackend", full)
    with pytest.raises(CapacityError, match=r"the GPU needs .* GiB of memory \(weights .*lower gpu_memory_utilization"):
        assemble(path, config)
    monkeypatch.setattr(device, "available_memory", lambda options: 1 << 20)
    with pytest.raises(CapacityError, match=r"more than is free \(0\.0\): lower"):
        assemble(path, config)


def test_a_profile_names_kernels(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(layers=1))
    parts = assemble(path, engine_config(backend="cuda", max_model_len=64, num_kv_blocks=8))
    assert isinstance(parts.backend, ProfiledBackend)
    parts.backend.profile(True)
    parts.engine.add(Request("1", [1, 2, 3], SamplingParams(max_tokens=2, ignore_eos=True)))
    while parts.engine.has_work:
        parts.engine.step()
    found = parts.backend.profiled()
    for phase in ("prefill", "decode"):
        assert {"norm", "heads", "attend whole", "attend parts", "sample"} <= found[phase].keys()
        assert any(title.startswith("dense F32 ") for title in found[phase]), found[phase].keys()
        assert list(found[phase].values()) == sorted(found[phase].values(), reverse=True)
    parts.backend.profile(False)
    assert parts.backend.profiled() == {}
