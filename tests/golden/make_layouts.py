"""Writes tests/data/layouts with transformers as the oracle. It needs an environment with torch and transformers:

python -m tests.golden.make_layouts            # writes the layouts whose config.json this version of transformers
                                               # spells: those called v4_* with 4.57, the others with 5;
                                               # names may follow
python -m tests.golden.make_layouts --compare  # compares all stored layouts with this version; writes nothing
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

from tests.golden.layouts import DATA, IDS, ROWS, load_layout, write_layout, write_tensors

VERSION = int(transformers.__version__.split(".")[0])
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # the prefix of transformers' classes, and more sizes
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma3": (
        "Gemma3",
        {"head_dim": 16, "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 16, "pad_token_id": 0},
    ),
}


@dataclass(frozen=True)
class Layout:
    """sizes: over those above. edit: changes to the saved config.json; None leaves a key out, "null" sets null.

    kind: "lm", "base" (saved without a head, and so without "model." in the names) or "multimodal".
    twice: a tied model's head is stored, too, with the "same" values or "other" ones. shard: the largest file.
    """

    family: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    edit: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "lm"
    dtype: str = "float32"
    shard: str = "5GB"
    twice: str = ""


def rope(**table: Any) -> dict[str, Any]:
    """Of transformers 5."""
    return {"rope_parameters": {"rope_theta": 10000.0, **table}}


def scaled(**table: Any) -> dict[str, Any]:
    """Of transformers 4."""
    return {"rope_theta": 10000.0, "rope_scaling": table}


def gemma_rope(full: Mapping[str, Any] = {}, sliding: Mapping[str, Any] = {}) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6, **full},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, **sliding},
        }
    }


LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FULL, SLIDING = "full_attention", "sliding_attention"
LAYOUTS = {
    "llama_plain": Layout("llama"),
    "llama_tied": Layout("llama", {"tie_word_embeddings": True}),
    "llama_tied_stored_twice": Layout("llama", {"tie_word_embeddings": True}, twice="same"),
    "llama_tied_stored_apart": Layout("llama", {"tie_word_embeddings": True}, twice="other"),
    "llama_shards": Layout("llama", shard="20KB"),
    "llama_bf16": Layout("llama", dtype="bfloat16"),
    "llama_f16": Layout("llama", dtype="float16"),
    "llama_attn_bias": Layout("llama", {"attention_bias": True}),
    "llama_mlp_bias": Layout("llama", {"mlp_bias": True, "head_dim": 16}),
    "llama_eps": Layout("llama", {"rms_norm_eps": 1e-2}),
    "llama_headdim24": Layout("llama", {"head_dim": 24}),
    "llama_headdim64": Layout("llama", {"head_dim": 64}),
    "llama_headdim128": Layout("llama", {"head_dim": 128}),
    "llama_no_kv_heads": Layout("llama", {"num_key_value_heads": 4}, {"num_key_value_heads": None}),
    "llama_one_kv_head": Layout("llama", {"num_key_value_heads": 1}),
    "llama_window_without_effect": Layout("llama", edit={"sliding_window": 16}),
    "llama_base": Layout("llama", {"tie_word_embeddings": True}, kind="base"),
    "llama_theta": Layout("llama", rope(rope_theta=5e5)),
    "llama_theta_missing": Layout("llama", edit={"rope_parameters": None}),
    "llama_theta_beside": Layout("llama", edit={"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5}),
    "llama_linear": Layout("llama", rope(rope_type="linear", factor=4.0)),
    "llama_linear_other_keys": Layout("llama", rope(rope_type="linear", factor=4.0, attention_factor=0.5)),
    "llama_dynamic": Layout("llama", rope(rope_type="dynamic", factor=4.0)),
    "llama_llama3": Layout("llama", rope(**LLAMA3)),
    "llama_llama3_original_beside": Layout(
        "llama", rope(**LLAMA3), {"original_max_position_embeddings": 32, "max_position_embeddings": 512}
    ),
    "llama_yarn": Layout("llama", rope(**YARN)),
    "llama_yarn_attention_factor": Layout("llama", rope(**YARN, attention_factor=0.8)),
    "llama_yarn_betas": Layout("llama", rope(**YARN, beta_fast=16.0, beta_slow=2.0)),
    "llama_yarn_zero_betas": Layout("llama", rope(**YARN, beta_fast=0, beta_slow=0)),
    "llama_yarn_mscale": Layout("llama", rope(**YARN, mscale=1.0, mscale_all_dim=0.707)),
    "llama_yarn_mscale_equal": Layout("llama", rope(**YARN, mscale=1.0, mscale_all_dim=1.0)),
    "llama_yarn_mscale_alone": Layout("llama", rope(**YARN, mscale=2.0)),
    "llama_yarn_mscale_all_dim_alone": Layout("llama", rope(**YARN, mscale_all_dim=2.0)),
    "llama_yarn_not_truncated": Layout("llama", rope(**YARN, truncate=False)),
    "llama_yarn_no_original": Layout("llama", rope(rope_type="yarn", factor=4.0)),
    "llama_yarn_original_beside": Layout("llama", rope(**YARN), {"original_max_position_embeddings": 32}),
    "llama_yarn_factor_null": Layout("llama", rope(**{**YARN, "factor": None})),
    "llama_scaling_over_parameters": Layout("llama", rope(), {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral_window": Layout("mistral", {"sliding_window": 16}),
    "mistral_null_window": Layout("mistral", {"sliding_window": None}),
    "mistral_headdim": Layout("mistral", {"sliding_window": None, "head_dim": 24}),
    "qwen2_plain": Layout("qwen2"),
    "qwen2_tied": Layout("qwen2", {"tie_word_embeddings": True}),
    "qwen2_windows": Layout("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2_windows_off": Layout("qwen2", edit={"sliding_window": 16, "max_window_layers": 1, "layer_types": None}),
    "qwen2_yarn": Layout("qwen2", rope(**{**YARN, "rope_theta": 1e6})),
    "qwen2_base": Layout("qwen2", {"tie_word_embeddings": True}, kind="base"),
    "qwen3_plain": Layout("qwen3"),
    "qwen3_attn_bias": Layout("qwen3", {"attention_bias": True}),
    "qwen3_headdim_missing": Layout("qwen3", {"head_dim": 128}, {"head_dim": None}),
    "qwen3_layer_types": Layout(
        "qwen3", {"use_sliding_window": True, "sliding_window": 16, "layer_types": [SLIDING, FULL]}
    ),
    "gemma3_plain": Layout("gemma3"),
    "gemma3_bf16": Layout("gemma3", dtype="bfloat16"),
    "gemma3_untied": Layout("gemma3", {"tie_word_embeddings": False, "num_hidden_layers": 2}),
    "gemma3_base": Layout("gemma3", {"num_hidden_layers": 2}, kind="base"),
    "gemma3_multimodal": Layout("gemma3", kind="multimodal"),
    "gemma3_attn_bias": Layout("gemma3", {"attention_bias": True, "num_hidden_layers": 2}),
    "gemma3_query_scalar": Layout("gemma3", {"query_pre_attn_scalar": 100}),
    "gemma3_softcap": Layout("gemma3", {"final_logit_softcapping": 5.0}),
    "gemma3_layer_types": Layout("gemma3", {"num_hidden_layers": 4, "layer_types": [FULL, SLIDING] * 2}),
    "gemma3_no_windows": Layout("gemma3", {"num_hidden_layers": 2, "layer_types": [FULL] * 2}),
    "gemma3_linear": Layout("gemma3", gemma_rope(LINEAR)),
    "gemma3_yarn": Layout("gemma3", gemma_rope({**YARN, "attention_factor": 1.0})),
    "gemma3_local_linear": Layout("gemma3", gemma_rope({}, LINEAR)),
    "gemma3_scaling_over_parameters": Layout("gemma3", gemma_rope({"rope_theta": 5e5}), {"rope_scaling": LINEAR}),
    "v4_llama_theta": Layout("llama", {"rope_theta": 5e5}),
    "v4_llama_default_type": Layout("llama", scaled(rope_type="default")),
    "v4_llama_linear": Layout("llama", edit=scaled(type="linear", factor=4.0)),
    "v4_llama_dynamic": Layout("llama", scaled(rope_type="dynamic", factor=4.0)),
    "v4_llama_llama3": Layout("llama", scaled(**LLAMA3)),
    "v4_llama_yarn": Layout("llama", edit=scaled(type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "v4_llama_yarn_nulls": Layout("llama", scaled(**YARN, attention_factor=None, beta_fast=None, beta_slow=None)),
    "v4_mistral_window": Layout("mistral", {"sliding_window": 16}),
    "v4_qwen2_windows": Layout("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "v4_qwen3_tied": Layout("qwen3", {"tie_word_embeddings": True}),
    "v4_gemma3_linear": Layout("gemma3", {"rope_scaling": LINEAR}, {"layer_types": None}),
    "v4_gemma3_pattern": Layout(
        "gemma3",
        {"num_hidden_layers": 4, "sliding_window_pattern": 2},
        {"sliding_window_pattern": 2, "layer_types": None},
    ),
    "v4_gemma3_multimodal": Layout("gemma3", kind="multimodal"),
}


def make(name: str, layout: Layout) -> None:
    """Writes tests/data/layouts/<name>.json."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = new_model(layout).to(getattr(torch, layout.dtype))
        (model.model if layout.kind == "base" else model).save_pretrained(folder, max_shard_size=layout.shard)
        config = edited(json.loads((folder / "config.json").read_text()), layout.edit)
        (folder / "config.json").write_text(json.dumps(config))
        files = {path.name: entries(path) for path in sorted(folder.glob("*.safetensors"))}
        if layout.twice:
            (tensors,) = files.values()
            embedding = "model.embed_tokens.weight"
            tensors["lm_head.weight"] = (*tensors[embedding], *([embedding] if layout.twice == "same" else []))
        write_tensors(folder, files, layout.family == "gemma3")
        stored = {
            "transformers": transformers.__version__,
            "config": config,
            "files": files,
            "logprobs": [[round(value, 5) for value in row] for row in logprobs(folder).tolist()],
        }
    (DATA / f"{name}.json").write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


def new_model(layout: Layout) -> Any:
    prefix, sizes = FAMILIES[layout.family]
    sizes = {**SIZES, **sizes, **layout.sizes}
    if layout.kind == "multimodal":
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        tokens = {"image_token_index": 29, "boi_token_index": 30, "eoi_token_index": 31, "mm_tokens_per_image": 4}
        config = transformers.Gemma3Config(text_config=sizes, vision_config=vision, **tokens)
        return transformers.Gemma3ForConditionalGeneration(config)
    text = "Text" if layout.family == "gemma3" else ""
    config = getattr(transformers, f"{prefix}{text}Config")(**sizes)
    return getattr(transformers, f"{prefix}ForCausalLM")(config)


def edited(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**config, **changes}.items() if key not in changes or value is not None}


def entries(path: Path) -> dict[str, Any]:
    with safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (entry.get_dtype(), list(entry.get_shape())) for name, entry in slices.items()}


def logprobs(folder: Path) -> np.ndarray[Any, Any]:
    """[ROWS, V]: log p(next token | IDS up to that row), in float32."""
    config = transformers.AutoConfig.from_pretrained(folder)
    multimodal = config.model_type == "gemma3"
    auto = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0]
    values: np.ndarray[Any, Any] = torch.log_softmax(logits.double(), -1)[ROWS].numpy()
    return values


def compare(name: str) -> str:
    """How far this version of transformers is from the stored values."""
    with tempfile.TemporaryDirectory() as made:
        folder = write_layout(Path(made), name)
        try:
            return f"{np.abs(logprobs(folder) - np.array(load_layout(name)['logprobs'])).mean():.1e}"
        except Exception as error:  # what a version cannot read, it does not matter how
            return f"{type(error).__name__}: {error}"[:150]


def main() -> None:
    transformers.logging.set_verbosity_error()
    DATA.mkdir(exist_ok=True)
    for name, layout in LAYOUTS.items():
        if "--compare" in sys.argv:
            print(f"{name:34} {compare(name)}")
        elif name.startswith("v4_") == (VERSION == 4) and name in (sys.argv[1:] or LAYOUTS):
            make(name, layout)


if __name__ == "__main__":
    main()
