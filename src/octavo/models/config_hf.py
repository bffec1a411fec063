"""Readers of a Hugging Face config.json that most families share. The keys are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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

FULL, SLIDING = LAYER_TYPES = ("full_attention", "sliding_attention")


def decoder(keys: Keys, windows: Callable[[Keys, int], tuple[int, ...]]) -> ModelConfig:
    """A decoder whose layers differ only in their windows. windows(keys, layers): the window of each."""
    activation(keys, "silu")
    size = sizes(keys)
    return make_config(size, attention(keys, size), windows(keys, size.layers), rope(keys, size, rope_table(keys)))


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


def rope(keys: Keys, size: Sizes, table: Keys) -> RopeConfig:
    """The rope of whole heads. Settings that `table` lacks may stand beside it."""
    keys.number("partial_rotary_factor", 1, 1, 1.0)
    theta = table.number("rope_theta", *THETA, keys.number("rope_theta", *THETA, 1e4))
    beside = "original_max_position_embeddings"
    original = keys.integer(beside, *CONTEXT) if keys.get(beside) is not None else None
    return RopeConfig(size.head_dim, theta, scaling_from_hf(table, size.context, original))


def rope_table(keys: Keys) -> Keys:
    """`rope_scaling`, or `rope_parameters` since transformers 5. If both are there, transformers takes the former."""
    return keys.table("rope_scaling" if keys.get("rope_scaling") else "rope_parameters")


def window(keys: Keys) -> int:
    """0: none."""
    return keys.integer("sliding_window", *WINDOW, 0)


def layer_types(keys: Keys, layers: int, default: Sequence[str]) -> Sequence[str]:
    """`layer_types`, an entry of `LAYER_TYPES` for each layer. default: for files without that list."""
    types = keys.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != layers or any(kind not in LAYER_TYPES for kind in types):
        listed = " or ".join(LAYER_TYPES)
        raise ModelFileError(f"model metadata: layer_types must list {listed} for each of {layers} layers")
    return types


def same_window(keys: Keys, layers: int, window: int) -> tuple[int, ...]:
    """`window` in every layer. transformers ignores `layer_types` in such models, so a list that differs is refused."""
    kind = SLIDING if window else FULL
    if any(other != kind for other in layer_types(keys, layers, ())):
        raise ModelFileError(f"model metadata: layer_types must be {kind} in every layer of this model_type")
    return (window,) * layers


def typed_windows(keys: Keys, layers: int, window: int, default: Sequence[str]) -> tuple[int, ...]:
    """`window` in the layers that `layer_types` lists as sliding_attention. default: for files without that list."""
    types = layer_types(keys, layers, default)
    if SLIDING in types and not window:
        raise ModelFileError("model metadata: layer_types has sliding_attention, but sliding_window is off or not set")
    return tuple(window if kind == SLIDING else 0 for kind in types)
