"""Llama (2302.13971, 2307.09288, 2407.21783) and what is built like it: SmolLM2, Mistral with a window (2310.06825)."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.ir import Ops, Tensor, Weight
from octavo.models.blocks import Network, Shapes, attention, bias_shapes, decoder_shapes, gated_mlp, lm_head, norm
from octavo.models.config import ModelConfig
from octavo.models.names import HF_LAYER, rename_hf


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding)
    for layer in net.layers:
        x = ops.add(x, attention(ops, norm(ops, x, layer, "attn_norm"), layer))
        x = ops.add(x, gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "silu"))
    return lm_head(ops, x, net)


def shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """A layer's weights: those it must have, those it may have (some fine-tunes have attention biases)."""
    return decoder_shapes(config), {**bias_shapes(config), "attn_output.bias": (config.hidden,)}


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Canonical names for a Hugging Face folder's tensors."""
    return rename_hf(tensors, HF_LAYER)
