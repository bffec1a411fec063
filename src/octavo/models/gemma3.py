"""Gemma 3 (2503.19786): norms before and after each part, and on q and k; a window in five layers of six."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from octavo.errors import ModelFileError
from octavo.ir import Ops, Tensor, Weight
from octavo.models import config_gguf, config_hf
from octavo.models.blocks import (
    ATTENTION,
    attention,
    bias_shapes,
    decoder_shapes,
    gated_mlp,
    lm_head,
    norm,
    qk_norm_shapes,
)
from octavo.models.config import SOFTCAP, THETA, WINDOW, ModelConfig, Sizes, alternating, make_config
from octavo.models.config_hf import FULL, LAYER_TYPES, SLIDING
from octavo.models.family import Family, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.names import HF_LAYER, rename_hf
from octavo.models.rope import RopeConfig, scaling_from_hf
from octavo.weights.dequantize import dequantize

GLOBAL_EVERY = 6  # layers 5, 11, ... see everything
LOCAL_THETA = 10_000.0  # rotary base of the layers with a window, which are never stretched to longer contexts
LAYERS_27B = 62  # the one size whose attention scale is not 1/sqrt(head_dim); GGUF has no key for that
HF_DEFAULTS = {  # defaults of transformers' class: a config.json omits values equal to these
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
}
HF_NAMES = {
    **HF_LAYER,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def from_gguf(keys: Keys) -> ModelConfig:
    config_gguf.no_experts(keys)
    sizes = config_gguf.sizes(keys)
    local_theta = keys.number("rope.freq_base_swa", *THETA, keys.number("rope.local.freq_base", *THETA, LOCAL_THETA))
    return make_config(
        sizes,
        config_gguf.attention(keys, sizes, sizes.hidden / sizes.heads if sizes.layers == LAYERS_27B else None),
        gguf_windows(keys, sizes.layers),
        config_gguf.rope(keys, sizes, theta=keys.number("rope.global.freq_base", *THETA, 1e6)),
        local_rope=RopeConfig(sizes.head_dim, local_theta, divided=False),
        logit_softcap=config_gguf.logit_softcap(keys),
    )


def gguf_windows(keys: Keys, layers: int) -> tuple[int, ...]:
    """The window of each layer. A file without the key is a model without windows, as llama.cpp reads it.

    The pattern is an array that says of each layer whether it has a window, or how many layers apart the others are.
    """
    window = keys.integer("attention.sliding_window", *WINDOW, 0)
    if (pattern := keys.flags("attention.sliding_window_pattern", layers)) is not None:
        return tuple(window if local else 0 for local in pattern)
    return alternating(window, layers, keys.integer("attention.sliding_window_pattern", 1, 1024, GLOBAL_EVERY))


def from_hf(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(HF_DEFAULTS)
    config_hf.activation(keys, "gelu_pytorch_tanh")
    if keys.flag("use_bidirectional_attention", False):
        raise ModelFileError("model metadata: use_bidirectional_attention is not supported: tokens see earlier ones")
    keys.number("attn_logit_softcapping", 0, 0, 0.0)  # transformers has the key in Gemma 3's class and no use for it
    sizes = config_hf.sizes(keys)
    every = keys.integer("sliding_window_pattern", 1, 1024, GLOBAL_EVERY)
    default = [SLIDING if window else FULL for window in alternating(1, sizes.layers, every)]
    return make_config(
        sizes,
        config_hf.attention(keys, sizes),
        config_hf.typed_windows(keys, sizes.layers, config_hf.window(keys), default),
        config_hf.rope(keys, sizes, global_table(keys)),
        local_rope=local_rope(keys, sizes),
        logit_softcap=keys.number("final_logit_softcapping", *SOFTCAP, 0.0),
    )


def global_table(keys: Keys) -> Keys:
    """The rope table of the layers that see everything. transformers lets `rope_scaling` override it key by key."""
    return keys.table("rope_scaling").with_defaults(typed_table(keys, FULL).entries())


def local_rope(keys: Keys, sizes: Sizes) -> RopeConfig:
    table = typed_table(keys, SLIDING)
    theta = table.number("rope_theta", *THETA, keys.number("rope_local_base_freq", *THETA, LOCAL_THETA))
    return RopeConfig(sizes.head_dim, theta, scaling_from_hf(table, sizes.context), divided=False)


def typed_table(keys: Keys, layer_type: str) -> Keys:
    """`rope_parameters` has a table for each layer type."""
    tables = keys.table("rope_parameters")
    tables.expect_only(LAYER_TYPES)
    return tables.table(layer_type)


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    post: Shapes = {"post_attention_norm.weight": (config.hidden,), "post_ffw_norm.weight": (config.hidden,)}
    required = {**decoder_shapes(config, layer), **qk_norm_shapes(config, layer), **post}
    return required, bias_shapes(config, layer, ATTENTION)


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Norms multiply by 1 + w, which GGUF files have folded in."""
    weights = rename_hf(tensors, HF_NAMES)
    return {name: plus_one(weight) if name.endswith("norm.weight") else weight for name, weight in weights.items()}


def plus_one(weight: Weight) -> Weight:
    return replace(weight, type="F32", data=(dequantize(weight) + np.float32(1)).view(np.uint8))


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding, scale=math.sqrt(net.config.hidden))
    for layer in net.layers:
        h = attention(ops, norm(ops, x, layer, "attn_norm"), layer, qk_norm=True)
        x = ops.add(x, norm(ops, h, layer, "post_attention_norm"))
        h = gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "gelu_tanh")
        x = ops.add(x, norm(ops, h, layer, "post_ffw_norm"))
    return lm_head(ops, x, net)


FAMILY = Family("gemma3", from_gguf, from_hf, shapes, sanitize, forward)
