"""Gemma 3 (2503.19786): norms before and after each part, and on q and k; a window in five layers of six."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from octavo.ir import Ops, Tensor, Weight
from octavo.models.blocks import Network, Shapes, attention, decoder_shapes, gated_mlp, lm_head, norm, qk_norm_shapes
from octavo.models.config import ModelConfig
from octavo.models.names import HF_LAYER, rename_hf
from octavo.weights.dequantize import dequantize

LAYER_NAMES = {
    **HF_LAYER,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding, net.config.embedding_scale)
    for layer in net.layers:
        h = attention(ops, norm(ops, x, layer, "attn_norm"), layer, qk_norm=True)
        x = ops.add(x, norm(ops, h, layer, "post_attention_norm"))
        h = gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "gelu_tanh")
        x = ops.add(x, norm(ops, h, layer, "post_ffw_norm"))
    return lm_head(ops, x, net)


def shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """A layer's weights: those it must have, those it may have."""
    post: Shapes = {"post_attention_norm.weight": (config.hidden,), "post_ffw_norm.weight": (config.hidden,)}
    return {**decoder_shapes(config), **qk_norm_shapes(config), **post}, {}


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Canonical names for a Hugging Face folder's tensors, and norms as 1 + w, as GGUF files have them folded in."""
    weights = rename_hf(tensors, LAYER_NAMES)
    return {name: _plus_one(weight) if name.endswith("norm.weight") else weight for name, weight in weights.items()}


def _plus_one(weight: Weight) -> Weight:
    data = (dequantize(weight) + np.float32(1)).view(np.uint8)
    return replace(weight, type="F32", data=data)
