"""A model's configuration from GGUF metadata. The keys are those of the GGUF specification ("llama.block_count")."""

from __future__ import annotations

import math
from typing import Any

from octavo.errors import ModelFileError
from octavo.models.config import (
    EPS,
    GEMMA3_GLOBAL_EVERY,
    GEMMA3_LOCAL_THETA,
    HEAD_DIM,
    HEADS,
    SIZES,
    SOFTCAP,
    THETA,
    WINDOW,
    ModelConfig,
    family_of,
    local_windows,
)
from octavo.models.keys import Keys
from octavo.models.rope import scaling_from_gguf
from octavo.types import Metadata

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3"}
GEMMA3_27B_LAYERS = 62  # the one Gemma 3 whose attention scale is not 1/sqrt(head_dim); GGUF has no key for that


def config_from_gguf(metadata: Metadata, tied: bool = False) -> ModelConfig:
    """tied: the file has no tensor output.weight (GGUF has no key that says so). Raises ModelFileError."""
    arch = Keys(metadata).text("general.architecture")
    family = family_of(arch, ARCHITECTURES)
    keys = Keys(metadata, f"{arch}.")
    keys.integer("expert_count", 0, 0, 0)  # mixtures of experts call themselves "llama" too
    sizes: dict[str, Any] = {name: keys.integer(gguf, low, high) for name, (gguf, _, low, high) in SIZES.items()}
    head_dim = _head_dim(keys, sizes["hidden"] // sizes["heads"])
    constants = {**_constants(keys, sizes, head_dim), **(_gemma3(keys, sizes, head_dim) if family == "gemma3" else {})}
    scaling = scaling_from_gguf(keys, sizes["context"])
    return ModelConfig(
        **{**sizes, "context": scaling.context(sizes["context"])},
        **constants,
        family=family,
        kv_heads=keys.integer("attention.head_count_kv", *HEADS, sizes["heads"]),
        head_dim=head_dim,
        vocab=_vocab(metadata, keys),
        eps=keys.number("attention.layer_norm_rms_epsilon", *EPS),
        tied=tied,
        rope_interleaved=family == "llama",
        rope_scaling=scaling,
    )


def _constants(keys: Keys, sizes: dict[str, int], head_dim: int) -> dict[str, Any]:
    window = keys.integer("attention.sliding_window", *WINDOW, 0)
    return {
        "rope_theta": keys.number("rope.freq_base", *THETA, 1e4),
        "windows": local_windows(window, sizes["layers"], 0),
        "attention_scale": keys.number("attention.scale", 1e-6, 1e3, 1 / math.sqrt(head_dim)),
        "attention_softcap": keys.number("attn_logit_softcapping", *SOFTCAP, 0.0),
        "logit_softcap": keys.number("final_logit_softcapping", *SOFTCAP, 0.0),
    }


def _gemma3(keys: Keys, sizes: dict[str, int], head_dim: int) -> dict[str, Any]:
    layers, hidden = sizes["layers"], sizes["hidden"]
    query_dim = hidden / sizes["heads"] if layers == GEMMA3_27B_LAYERS else head_dim
    window = keys.integer("attention.sliding_window", *WINDOW)
    every = keys.integer("attention.sliding_window_pattern", 1, 1024, GEMMA3_GLOBAL_EVERY)
    return {
        "rope_theta": keys.number("rope.freq_base", *THETA, 1e6),
        "local_rope_theta": keys.number("rope.freq_base_swa", *THETA, GEMMA3_LOCAL_THETA),
        "windows": local_windows(window, layers, every),
        "attention_scale": keys.number("attention.scale", 1e-6, 1e3, 1 / math.sqrt(query_dim)),
        "embedding_scale": math.sqrt(hidden),
    }


def _head_dim(keys: Keys, default: int) -> int:
    """Keys, values and the rotated part must be equally wide: no family that is supported has them otherwise."""
    head_dim = keys.integer("attention.key_length", *HEAD_DIM, default)
    keys.integer("attention.value_length", head_dim, head_dim, head_dim)
    keys.integer("rope.dimension_count", head_dim, head_dim, head_dim)
    return head_dim


def _vocab(metadata: Metadata, keys: Keys) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None and keys.get("vocab_size") is None:
        raise ModelFileError(f"model metadata: neither {keys.prefix}vocab_size nor tokenizer.ggml.tokens is there")
    return keys.integer("vocab_size", 1, 1 << 24, None if tokens is None else len(tokens))
