"""Every layout of a model folder (tests/data/layouts) and of a GGUF file against transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.backends.base import Backend
from octavo.backends.cpu.backend import CpuBackend
from octavo.backends.reference import ReferenceBackend
from octavo.config import CacheConfig
from octavo.errors import ModelFileError
from octavo.models.registry import load_model, read_checkpoint
from octavo.sampling.rules import logprobs
from octavo.types import F32
from octavo.weights import open_checkpoint
from octavo.weights.dequantize import dequantize
from octavo.weights.gguf_writer import write_gguf
from tests.batches import Row, make_batch
from tests.golden.layouts import DATA, IDS, ROWS, load_layout, write_layout
from tests.quantize import quantize
from tests.tiny import interleave

LAYOUTS = sorted(path.stem for path in DATA.glob("*.json"))
CACHE = CacheConfig(num_blocks=4, block_size=16, dtype="f32")


def test_there_are_layouts() -> None:
    assert len(LAYOUTS) >= 50


@pytest.mark.parametrize("name", LAYOUTS)
def test_folder(name: str, tmp_path: Path) -> None:
    model = load_model(write_layout(tmp_path / name, name))
    assert error(ReferenceBackend(model, CACHE), name) < 1e-4


def error(backend: Backend, name: str) -> float:
    """The mean difference from the log-probabilities that transformers computed for this layout."""
    result = backend.run(make_batch([Row(IDS, all_rows=True)], want_logits=True))
    assert result.logits is not None and result.finite.all()
    return float(np.abs(logprobs(result.logits)[ROWS] - np.array(load_layout(name)["logprobs"])).mean())


@pytest.mark.parametrize("name", ["llama_mlp_bias", "qwen3_attn_bias", "gemma3_attn_bias"])
def test_folder_on_the_cpu_backend(name: str, tmp_path: Path) -> None:
    """Parts that no other test brings to this backend."""
    model = load_model(write_layout(tmp_path / name, name))
    backend = CpuBackend(model, CACHE, threads=1, max_tokens=64, max_seqs=1)
    assert error(backend, name) < 1e-3


def test_layouts_differ() -> None:
    """A key that a reader ignored would show: hardly two layouts of a family compute the same."""
    seen: dict[str, str] = {}
    for name in LAYOUTS:
        seen.setdefault(json.dumps(load_layout(name)["logprobs"]), name)
    assert len(seen) > 0.6 * len(LAYOUTS)


@dataclass(frozen=True)
class File:
    """A GGUF file with the values of the folder `layout`. keys: changes to its metadata; None leaves a key out."""

    layout: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


YARN = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 64,
}
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
FILES = {
    "llama": File("llama_plain"),
    "tied": File("llama_tied"),
    "attention biases": File("llama_attn_bias"),
    "mlp biases": File("llama_mlp_bias"),
    "head size 24": File("llama_headdim24"),
    "head size stated": File("llama_plain", {"llama.rope.dimension_count": 8, "llama.attention.value_length": 8}),
    "a llama has no window": File("llama_plain", {"llama.attention.sliding_window": 16}),
    "no vocabulary": File("llama_plain", {"tokenizer.ggml.tokens": None, "llama.vocab_size": 32}),
    "linear": File("llama_linear", {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    "linear, the old key": File("llama_linear", {"llama.rope.scale_linear": 4.0}),
    "scaling of type none": File("llama_plain", {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}),
    "yarn": File("llama_yarn", YARN),
    "yarn, neutral keys": File(
        "llama_yarn", {**YARN, "llama.rope.scaling.yarn_ext_factor": 1.0, "llama.rope.scaling.attn_factor": 1.0}
    ),
    "yarn, ramp": File(
        "llama_yarn_betas",
        {**YARN, "llama.rope.scaling.yarn_beta_fast": 16.0, "llama.rope.scaling.yarn_beta_slow": 2.0},
    ),
    "Latin-1 where nobody reads": File("llama_plain", {"general.author": b"Andr\xe9", "general.name": b"caf\xe9"}),
    "qwen2": File("qwen2_plain"),
    "qwen3": File("qwen3_plain"),
    "gemma3": File("gemma3_plain"),
    "gemma3, pattern as a number": File("gemma3_plain", {"gemma3.attention.sliding_window_pattern": 6}),
    "gemma3, pattern as an array": File(
        "gemma3_plain", {"gemma3.attention.sliding_window_pattern": [True] * 5 + [False, True]}
    ),
    "gemma3, pattern as an array of numbers": File(
        "gemma3_layer_types", {"gemma3.attention.sliding_window_pattern": np.array([0, 1, 0, 1], np.uint32)}
    ),
    "gemma3 without windows": File("gemma3_no_windows", {"gemma3.attention.sliding_window": None}),
    "gemma3, linear": File("gemma3_linear", {f"gemma3.{key}": value for key, value in LINEAR.items()}),
    "gemma3, softcap": File("gemma3_softcap", {"gemma3.final_logit_softcapping": 5.0}),
    "gemma3, bases named as Ollama does": File(
        "gemma3_plain",
        {
            "gemma3.rope.freq_base": None,
            "gemma3.rope.global.freq_base": 1e6,
            "gemma3.rope.local.freq_base": 1e4,
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_file(name: str, tmp_path: Path) -> None:
    file = FILES[name]
    model = load_model(write_file(tmp_path / "m.gguf", file))
    assert error(ReferenceBackend(model, CACHE), file.layout) < 1e-4


def write_file(path: Path, file: File) -> Path:
    folder = open_checkpoint(write_layout(path.with_suffix(""), file.layout))
    family, config, weights = read_checkpoint(folder)
    attention = config.layers[0].attention
    arrays: dict[str, F32] = {name: dequantize(weight).reshape(weight.shape) for name, weight in weights.items()}
    if family.name == "llama":
        reordered = [name for name in arrays if re.search(r"attn_[qk]\.", name)]
        arrays |= {name: interleave(arrays[name], attention.head_dim) for name in reordered}
    keys = {
        "block_count": len(config.layers),
        "context_length": 256,
        "embedding_length": config.hidden,
        "feed_forward_length": config.layers[0].ffn,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": config.eps,
        "rope.freq_base": 1e6 if family.name == "gemma3" else 1e4,
        **({"attention.sliding_window": 16} if family.name == "gemma3" else {}),
    }
    metadata = {
        "general.architecture": family.name,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(32)],
        **{f"{family.name}.{key}": value for key, value in keys.items()},
        **file.keys,
    }
    tensors = {name: quantize(array, "F32", name) for name, array in arrays.items()}
    write_gguf(path, {key: value for key, value in metadata.items() if value is not None}, tensors)
    return path


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "part of a head": (
        "llama_plain",
        {"partial_rotary_factor": 0.5},
        "model metadata: partial_rotary_factor must be 1, not 0.5",
    ),
    "part of a head, in the table": (
        "llama_plain",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor must be 1, not 0.5",
    ),
    "kind of rope": (
        "llama_plain",
        {"rope_parameters": {"rope_type": "longrope", "factor": 4.0}},
        "rope_parameters.rope_type 'longrope' is not supported; supported: default, dynamic, linear, llama3, yarn",
    ),
    "key of a rope": (
        "llama_plain",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "llama_4_scaling_beta": 0.1}},
        "rope_scaling.llama_4_scaling_beta is not supported here",
    ),
    "rope of each layer type": (
        "llama_plain",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "rope_parameters.full_attention is not supported here",
    ),
    "one rope for gemma3": (
        "gemma3_plain",
        {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
        "rope_parameters.rope_type is not supported here; supported: full_attention, sliding_attention",
    ),
    "windows in some layers of a llama": (
        "llama_plain",
        {"layer_types": ["sliding_attention", "full_attention"]},
        "layer_types must be full_attention in every layer of this model_type",
    ),
    "windows in some layers of a mistral": (
        "mistral_window",
        {"layer_types": ["sliding_attention", "full_attention"]},
        "layer_types must be sliding_attention in every layer of this model_type",
    ),
    "windows that are off": (
        "qwen2_plain",
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
        "layer_types has sliding_attention, but sliding_window is off or not set",
    ),
    "windows of no size": ("gemma3_plain", {"sliding_window": None}, "sliding_window is off or not set"),
    "attention to later tokens": ("gemma3_plain", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "softcap that transformers ignores": ("gemma3_plain", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "an unknown kind of layer": ("qwen3_plain", {"layer_types": ["chunked_attention"] * 2}, "layer_types must list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_named(name: str, tmp_path: Path) -> None:
    layout, change, message = REFUSED[name]
    folder = write_layout(tmp_path / "m", layout)
    (folder / "config.json").write_text(json.dumps({**load_layout(layout)["config"], **change}))
    with pytest.raises(ModelFileError) as error:
        load_model(folder)
    assert message in str(error.value)
