"""Readers of a Hugging Face config.json that most families share. The keys are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable

from octavo.errors import ModelFileError
from octavo.ir import Attention
from octavo.models.config import (
    CONTEXT,
    EPS,
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    THETA,
    VOCAB,
    WINDOW,
    ModelConfig,
    Sizes,
    make_config,
)
from octavo.models.keys import Keys
from octavo.models.rope import RopeConfig, scaling_from_hf

LAYER_TYPES = ("full_attention", "sliding_attention")


def decoder(keys: Keys, windows: Callable[[Keys, int], tuple[int, ...]]) -> ModelConfig:
    """A decoder whose layers differ only in their windows. windows(keys, layers): for files that do not list them."""
    activation(keys, "silu")
    size = sizes(keys)
    seen = listed_windows(keys, size.layers) or windows(keys, size.layers)
    return make_config(size, attention(keys, size), seen, rope(keys, size))


def activation(keys: Keys, expected: str) -> None:
    for key in ("hidden_act", "hidden_activation"):
        if keys.get(key) not in (None, expected):
            raise ModelFileError(f"model metadata: {key} {keys.get(key)!r} is not supported here; only {expected!r} is")


def sizes(keys: Keys) -> Sizes:
    hidden, heads = keys.integer("hidden_size", *HIDDEN), keys.integer("num_attention_heads", *HEADS)
    return Sizes(
        layers=keys.integer("num_hidden_layers", *LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("num_key_value_heads", *HEADS, heads),
        head_dim=keys.integer("head_dim", *HEAD_DIM, hidden // heads),
        ffn=keys.integer("intermediate_size", *FFN),
        vocab=keys.integer("vocab_size", *VOCAB),
        context=keys.integer("max_position_embeddings", *CONTEXT),
        eps=keys.number("rms_norm_eps", *EPS, 1e-6),
        tied=keys.flag("tie_word_embeddings", False),
    )


def attention(keys: Keys, size: Sizes) -> Attention:
    scale = 1 / math.sqrt(keys.number("query_pre_attn_scalar", 1, 1e6, size.head_dim))
    return Attention(size.heads, size.kv_heads, size.head_dim, scale)


def rope(keys: Keys, size: Sizes) -> RopeConfig:
    """The rope of whole heads. If layer types differ, it is that of the layers with full attention."""
    keys.number("partial_rotary_factor", 1, 1, 1.0)
    table = rope_table(keys, "full_attention")
    theta = table.number("rope_theta", *THETA, keys.number("rope_theta", *THETA, 1e4))
    return RopeConfig(size.head_dim, theta, scaling_from_hf(table, size.context))


def rope_table(keys: Keys, layer_type: str) -> Keys:
    """`rope_scaling`, or since transformers 5 `rope_parameters`, which may hold a table for each layer type."""
    table = keys.table("rope_parameters" if keys.get("rope_parameters") else "rope_scaling")
    return table.table(layer_type) if table.get(layer_type) is not None else table


def window(keys: Keys) -> int:
    return keys.integer("sliding_window", *WINDOW, 0)


def listed_windows(keys: Keys, layers: int) -> tuple[int, ...] | None:
    """The window of each layer as `layer_types` says; None in a file without that list."""
    size, types = window(keys), keys.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers or any(kind not in LAYER_TYPES for kind in types):
        listed = " or ".join(LAYER_TYPES)
        raise ModelFileError(f"model metadata: layer_types must list {listed} for each of {layers} layers")
    return tuple(size if kind == "sliding_attention" else 0 for kind in types)
