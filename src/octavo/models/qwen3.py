"""Qwen3 (2505.09388), dense: Llama's decoder with a norm on each head of q and k, and a head dimension of its own."""

from __future__ import annotations

from octavo.ir import Ops, Tensor
from octavo.models.blocks import Network, Shapes, attention, decoder_shapes, gated_mlp, lm_head, norm, qk_norm_shapes
from octavo.models.config import ModelConfig
from octavo.models.llama import sanitize

__all__ = ["forward", "sanitize", "shapes"]


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding)
    for layer in net.layers:
        x = ops.add(x, attention(ops, norm(ops, x, layer, "attn_norm"), layer, qk_norm=True))
        x = ops.add(x, gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "silu"))
    return lm_head(ops, x, net)


def shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """A layer's weights: those it must have, those it may have."""
    return {**decoder_shapes(config), **qk_norm_shapes(config)}, {}
