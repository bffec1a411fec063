"""What a contributor adds for a family (CONTRIBUTING.md): a file, here toy.py, and its line in `FAMILIES`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from octavo import LLM, SamplingParams
from octavo.backends.base import Backend
from octavo.backends.cpu.backend import CpuBackend
from octavo.backends.cpu.packing import LAYOUT, panels
from octavo.backends.reference import ReferenceBackend
from octavo.config import CacheConfig
from octavo.errors import ModelFileError
from octavo.kv.planner import token_bytes
from octavo.models.registry import FAMILIES, Names, build_model, load_model, model_shapes, read_config
from octavo.types import F32
from octavo.weights import open_checkpoint
from octavo.weights.artifact import write_artifact
from octavo.weights.gguf_writer import write_gguf
from tests.batches import Row, make_batch
from tests.quantize import quantize
from tests.tiny import Tiny, hf_name, tiny_metadata, write_tokenizer
from tests.unit.models import toy

CACHE = CacheConfig(num_blocks=4, block_size=16, dtype="f32")
IDS = np.random.default_rng(1).integers(0, 320, 40).tolist()
KEYS: dict[str, Any] = {
    "embedding_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": [2, 1, 4],
    "attention.key_length": 32,
    "attention.value_length": 32,
    "feed_forward_length": [96, 64, 96],
    "context_length": 512,
    "embedding_scale": 3.0,
    "rope.dimension_count": 16,
    "vocab_size": 320,
}
NARROW = {**KEYS, "attention.value_length": 16}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "octavo.models.toy", toy)  # the file
    monkeypatch.setitem(FAMILIES, "toy", Names(gguf=("toy",), hf=("toy_text",)))  # the line


def metadata(keys: dict[str, Any]) -> dict[str, Any]:
    tokenizer = {key: value for key, value in tiny_metadata(Tiny()).items() if key.startswith("tokenizer.")}
    return {"general.architecture": "toy", **{f"toy.{key}": value for key, value in keys.items()}, **tokenizer}


def arrays(keys: dict[str, Any]) -> dict[str, F32]:
    rng = np.random.default_rng(0)
    required, _ = model_shapes(*read_config(metadata(keys)))
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1]) + (len(shape) == 1)).astype(np.float32)
        for name, shape in required.items()
    }


def write_toy_gguf(path: Path, keys: dict[str, Any] = KEYS) -> Path:
    write_gguf(path, metadata(keys), {name: quantize(array, "F32", name) for name, array in arrays(keys).items()})
    return path


def write_toy_hf(folder: Path, keys: dict[str, Any] = KEYS) -> Path:
    folder.mkdir()
    save_file({hf_name(name): array for name, array in arrays(keys).items()}, folder / "model.safetensors")
    config = {"model_type": "toy_text", **{toy.HF_KEYS[key]: value for key, value in keys.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, 320)
    return folder


def logits(backend: Backend, chunk: int = 64) -> F32:
    parts = []
    for start in range(0, len(IDS), chunk):
        row = Row(IDS[start : start + chunk], start=start, all_rows=True)
        result = backend.run(make_batch([row], want_logits=True))
        assert result.logits is not None and result.finite.all()
        parts.append(result.logits)
    return np.concatenate(parts)


@pytest.mark.parametrize("keys", [KEYS, NARROW], ids=["K = V", "narrow V"])
def test_both_kinds_of_file_run_on_the_reference_backend(keys: dict[str, Any], tmp_path: Path) -> None:
    gguf, hf = load_model(write_toy_gguf(tmp_path / "m.gguf", keys)), load_model(write_toy_hf(tmp_path / "m", keys))
    whole = logits(ReferenceBackend(gguf, CACHE))
    np.testing.assert_array_equal(logits(ReferenceBackend(hf, CACHE)), whole)
    np.testing.assert_allclose(logits(ReferenceBackend(gguf, CACHE), chunk=7), whole, atol=1e-4)
    assert token_bytes(gguf.attention, "f32") == 4 * (2 + 1 + 4) * (32 + keys["attention.value_length"])


def test_the_cpu_backend_computes_the_same(tmp_path: Path) -> None:
    model = load_model(write_toy_gguf(tmp_path / "m.gguf"))
    ours = CpuBackend(model, CACHE, threads=2, max_tokens=64, max_seqs=4)
    np.testing.assert_allclose(logits(ours), logits(ReferenceBackend(model, CACHE)), atol=1e-3)
    assert (logits(ours, chunk=7) == logits(ours)).all()


def test_the_cpu_backend_says_what_it_does_not_have(tmp_path: Path) -> None:
    model = load_model(write_toy_gguf(tmp_path / "m.gguf", NARROW))
    with pytest.raises(ModelFileError, match=r"keys of 32 and values of 16 dimensions.*backend='reference'"):
        CpuBackend(model, CACHE)


def test_the_engine_and_the_artifact_know_nothing_of_it(tmp_path: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)

    def tokens(source: Path) -> list[int]:
        with LLM(source, max_model_len=64, num_kv_blocks=8, threads=2) as llm:
            return llm.generate("the sun", params, use_tqdm=False)[0].outputs[0].token_ids

    gguf, folder = write_toy_gguf(tmp_path / "m.gguf"), write_toy_hf(tmp_path / "m")
    checkpoint = open_checkpoint(gguf)
    model = build_model(checkpoint)
    write_artifact(tmp_path / "made", checkpoint, model.weights, lambda: panels(model), LAYOUT)
    assert len(tokens(gguf)) == 8
    assert tokens(gguf) == tokens(folder) == tokens(tmp_path / "made")


def test_its_mistakes_are_its_own(tmp_path: Path) -> None:
    keys = {**KEYS, "feed_forward_length": [96, 0, 96]}
    with pytest.raises(ModelFileError, match=r"toy\.feed_forward_length"):
        read_config(metadata(keys))
    with pytest.raises(ModelFileError, match="40 rotated dimensions do not fit into heads of 32"):
        read_config(metadata({**KEYS, "rope.dimension_count": 40}))
    with pytest.raises(ModelFileError, match=r"supported: gemma3, .*toy"):
        read_config({"general.architecture": "mamba"})
