"""A model's configuration from a Hugging Face folder's config.json. The keys are those of transformers."""

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
from octavo.models.rope import scaling_from_hf
from octavo.types import Metadata

MODEL_TYPES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
}
ACTIVATIONS = {"llama": "silu", "qwen2": "silu", "qwen3": "silu", "gemma3": "gelu_pytorch_tanh"}

# What a config.json may leave out because it equals the default of transformers' class.
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma3": {
        "num_hidden_layers": 26,
        "hidden_size": 2304,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 9216,
        "max_position_embeddings": 131072,
        "vocab_size": 262208,
        "rope_theta": 1e6,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    },
}


def config_from_hf(config: Metadata) -> ModelConfig:
    """config: the parsed config.json; of a multimodal Gemma 3 its `text_config` counts. Raises ModelFileError."""
    family = family_of(Keys(config).text("model_type"), MODEL_TYPES)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    keys = Keys({**DEFAULTS.get(family, {}), **text})
    _check_activation(keys, ACTIVATIONS[family])
    keys.number("partial_rotary_factor", 1, 1, 1.0)  # whole heads are rotated
    sizes: dict[str, Any] = {name: keys.integer(hf, low, high) for name, (_, hf, low, high) in SIZES.items()}
    head_dim = keys.integer("head_dim", *HEAD_DIM, sizes["hidden"] // sizes["heads"])
    rope = _rope_table(keys, "full_attention")
    scaling = scaling_from_hf(rope, sizes["context"])
    return ModelConfig(
        **{**sizes, "context": scaling.context(sizes["context"])},
        **(_gemma3(keys, sizes["hidden"]) if family == "gemma3" else {}),
        family=family,
        kv_heads=keys.integer("num_key_value_heads", *HEADS, sizes["heads"]),
        head_dim=head_dim,
        vocab=keys.integer("vocab_size", 1, 1 << 24),
        eps=keys.number("rms_norm_eps", *EPS, 1e-6),
        rope_theta=rope.number("rope_theta", *THETA, keys.number("rope_theta", *THETA, 1e4)),
        attention_scale=1 / math.sqrt(keys.number("query_pre_attn_scalar", 1, 1e6, head_dim)),
        windows=_windows(keys, family, sizes["layers"]),
        tied=keys.flag("tie_word_embeddings", False),
        rope_scaling=scaling,
    )


def _gemma3(keys: Keys, hidden: int) -> dict[str, Any]:
    theta = keys.number("rope_local_base_freq", *THETA, GEMMA3_LOCAL_THETA)
    if keys.get("rope_parameters"):
        theta = _rope_table(keys, "sliding_attention").number("rope_theta", *THETA, theta)
    return {
        "local_rope_theta": theta,
        "embedding_scale": math.sqrt(hidden),
        "attention_softcap": keys.number("attn_logit_softcapping", *SOFTCAP, 0.0),
        "logit_softcap": keys.number("final_logit_softcapping", *SOFTCAP, 0.0),
    }


def _rope_table(keys: Keys, layer_type: str) -> Keys:
    """`rope_scaling`, or since transformers 5 `rope_parameters`, which Gemma has one of for each layer type."""
    table = keys.table("rope_parameters" if keys.get("rope_parameters") else "rope_scaling")
    return table.table(layer_type) if table.get(layer_type) is not None else table


def _windows(keys: Keys, family: str, layers: int) -> tuple[int, ...]:
    window = keys.integer("sliding_window", *WINDOW, 0)
    types = keys.get("layer_types")
    if types is not None:
        return tuple(window if kind == "sliding_attention" else 0 for kind in _layer_types(types, layers))
    if family == "gemma3":
        return local_windows(window, layers, keys.integer("sliding_window_pattern", 1, 1024, GEMMA3_GLOBAL_EVERY))
    if family == "llama":
        return (window,) * layers
    first = keys.integer("max_window_layers", 0, 1 << 20, layers) if keys.flag("use_sliding_window", False) else layers
    return tuple(window if i >= first else 0 for i in range(layers))


def _layer_types(types: Any, layers: int) -> list[str]:
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(kind not in known for kind in types):
        raise ModelFileError(f"model metadata: layer_types must list {' or '.join(known)} for each of {layers} layers")
    return types


def _check_activation(keys: Keys, expected: str) -> None:
    for key in ("hidden_act", "hidden_activation"):
        if keys.get(key) not in (None, expected):
            raise ModelFileError(f"model metadata: {key} {keys.get(key)!r} is not supported here; only {expected!r} is")
