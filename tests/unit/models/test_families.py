"""Every family from file to logits: layouts, encodings, and the errors for bad files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo.backends.reference import ReferenceBackend
from octavo.config import CacheConfig
from octavo.errors import ModelFileError
from octavo.ir import Model
from octavo.models.registry import load_model
from octavo.types import F32
from octavo.weights.dequantize import dequantize
from octavo.weights.gguf_writer import write_gguf
from tests.batches import Row, make_batch
from tests.quantize import quantize
from tests.tiny import FAMILIES, Tiny, tiny_arrays, tiny_metadata, write_tiny_gguf, write_tiny_hf

IDS = np.random.default_rng(1).integers(0, 320, 48).tolist()


def logits(model: Model) -> F32:
    backend = ReferenceBackend(model, CacheConfig(num_blocks=4, block_size=16, dtype="f32"))
    result = backend.run(make_batch([Row(IDS, all_rows=True)], want_logits=True))
    assert result.logits is not None and result.finite.all()
    return result.logits


def write_changed(path: Path, tiny: Tiny, change: Mapping[str, F32 | None]) -> Path:
    """A GGUF file with some tensors replaced, added, or (None) left out."""
    arrays = {**tiny_arrays(tiny), **change}
    tensors = {name: quantize(array, "F32", name) for name, array in arrays.items() if array is not None}
    write_gguf(path, tiny_metadata(tiny), tensors)
    return path


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_and_hf_layouts_give_the_same_logits(family: str, tied: bool, tmp_path: Path) -> None:
    tiny = Tiny(family, tied=tied, layers=3)
    gguf = logits(load_model(write_tiny_gguf(tmp_path / "m.gguf", tiny)))
    hf = logits(load_model(write_tiny_hf(tmp_path / "hf", tiny)))
    np.testing.assert_allclose(gguf, hf, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_folder(family: str, tmp_path: Path) -> None:
    """Rounded weights: close to the exact model. Gemma's norms are folded from bfloat16."""
    exact = logits(load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny(family))))
    rounded = logits(load_model(write_tiny_hf(tmp_path / "hf", Tiny(family), dtype="BF16")))
    assert 0 < np.abs(exact - rounded).mean() < 0.1


@pytest.mark.parametrize("type", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K"])
def test_encodings(type: str, tmp_path: Path) -> None:
    """A model keeps its file's encoding, and computes the same as with its values written as F32."""
    tiny = Tiny("qwen3", hidden=256, heads=4, head_dim=64, ffn=256, type=type)
    model = load_model(write_tiny_gguf(tmp_path / "q.gguf", tiny))
    assert model.weights["blk.0.attn_q.weight"].type == type
    values = {name: dequantize(weight) for name, weight in model.weights.items()}
    np.testing.assert_allclose(
        logits(model), logits(load_model(write_changed(tmp_path / "f.gguf", tiny, values))), atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_matters(family: str, tmp_path: Path) -> None:
    """Every tensor that is read takes part in the forward pass."""
    tiny = Tiny(family, layers=1, tied=False)
    before = logits(load_model(write_tiny_gguf(tmp_path / "m.gguf", tiny)))
    for name, array in tiny_arrays(tiny).items():
        path = write_changed(tmp_path / "changed.gguf", tiny, {name: array * np.float32(1.5) + np.float32(0.1)})
        assert np.abs(logits(load_model(path)) - before).max() > 1e-3, name


def test_llama_accepts_attention_biases(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.ones(64, np.float32), "blk.1.attn_output.bias": np.ones(64, np.float32)}
    plain = logits(load_model(write_changed(tmp_path / "m.gguf", Tiny(), {})))
    assert np.abs(logits(load_model(write_changed(tmp_path / "b.gguf", Tiny(), bias))) - plain).max() > 0.1


def test_rope_freqs_tensor_slows_rotation(tmp_path: Path) -> None:
    """Dividing all frequencies by f is the same as linear scaling by f."""
    divisors = {"rope_freqs.weight": np.full(8, 4.0, np.float32)}
    tensor = load_model(write_changed(tmp_path / "t.gguf", Tiny(), divisors))
    scaled = Tiny(gguf={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    np.testing.assert_allclose(
        logits(tensor), logits(load_model(write_changed(tmp_path / "s.gguf", scaled, {}))), atol=1e-4
    )


def test_logit_softcap_bounds_the_logits(tmp_path: Path) -> None:
    tiny = Tiny("gemma3", gguf={"final_logit_softcapping": 5.0})
    capped = logits(load_model(write_tiny_gguf(tmp_path / "c.gguf", tiny)))
    plain = logits(load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny("gemma3"))))
    np.testing.assert_allclose(capped, 5 * np.tanh(plain / 5), atol=1e-4)


def test_tied_folder_that_stores_the_head_twice(tmp_path: Path) -> None:
    """Equal values are kept once. Others are a head, as transformers 5 takes them: see tests/golden/test_layouts.py."""
    stored = Tiny(tied=False, hf={"tie_word_embeddings": True})
    folder = write_tiny_hf(tmp_path / "hf", stored)
    assert "output.weight" in load_model(folder).weights
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    assert "output.weight" not in load_model(folder).weights


def test_folder_names_of_base_models(tmp_path: Path) -> None:
    """`LlamaModel.save_pretrained` writes names without "model."."""
    folder = write_tiny_hf(tmp_path / "hf", Tiny())
    expected = logits(load_model(folder))
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in tensors.items()}, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(load_model(folder)), expected)


HF_MISTAKES = [
    (
        "model.layers.0.mlp.router.weight",
        "tensor 'model.layers.0.mlp.router.weight' is unknown: llama has no such part",
    ),
    ("encoder.layer.0.attention.weight", "tensor 'encoder.layer.0.attention.weight' is unknown"),
    ("norm.weight", "tensors model.norm.weight and norm.weight are the same part of the model"),
]


@pytest.mark.parametrize(("name", "message"), HF_MISTAKES)
def test_unknown_names_in_a_folder_are_said_to_be_unknown(name: str, message: str, tmp_path: Path) -> None:
    folder = write_tiny_hf(tmp_path / "hf", Tiny())
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: np.ones(64, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=re.escape(message)):
        load_model(folder)


def test_model_describes_itself(tmp_path: Path) -> None:
    model = load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny("gemma3", layers=4)))
    assert (model.name, model.vocab_size, model.hidden_size, model.max_context) == ("tiny gemma3", 320, 64, 512)
    assert [spec.window for spec in model.attention] == [16, 0, 16, 0]
    assert load_model(write_tiny_hf(tmp_path / "folder", Tiny())).name == "folder"


MISTAKES = [
    ("llama", {"blk.1.ffn_up.weight": None}, "tensor blk.1.ffn_up.weight is missing, which llama needs"),
    ("qwen2", {"blk.0.attn_k.bias": None}, "tensor blk.0.attn_k.bias is missing, which qwen2 needs"),
    ("qwen3", {"blk.0.attn_q_norm.weight": None}, "tensor blk.0.attn_q_norm.weight is missing"),
    ("gemma3", {"blk.0.post_ffw_norm.weight": None}, "tensor blk.0.post_ffw_norm.weight is missing"),
    (
        "llama",
        {"blk.0.attn_q.weight": np.ones((32, 64), np.float32)},
        "has shape (32, 64); the metadata call for (64, 64)",
    ),
    (
        "llama",
        {"blk.2.attn_norm.weight": np.ones(64, np.float32)},
        "tensor 'blk.2.attn_norm.weight' is unknown: llama has no such part here",
    ),
    (
        "llama",
        {"blk.0.ffn_gate_inp.weight": np.ones((8, 64), np.float32)},
        "tensor 'blk.0.ffn_gate_inp.weight' is unknown",
    ),
]


@pytest.mark.parametrize(("family", "change", "message"), MISTAKES)
def test_wrong_weights_are_named(family: str, change: Mapping[str, F32 | None], message: str, tmp_path: Path) -> None:
    path = write_changed(tmp_path / "bad.gguf", Tiny(family), change)
    with pytest.raises(ModelFileError) as error:
        load_model(path)
    assert message in str(error.value) and "bad.gguf" in str(error.value)
