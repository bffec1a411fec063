"""Qwen3 (2505.09388), dense: Llama's decoder with a norm on each head of q and k, and an explicit head dimension."""

from __future__ import annotations

from octavo.ir import Ops, Tensor
from octavo.models import config_gguf, config_hf, qwen2
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
from octavo.models.config import ModelConfig
from octavo.models.family import Family, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.llama import sanitize

HF_DEFAULTS = {**qwen2.HF_DEFAULTS, "head_dim": 128}


def from_hf(keys: Keys) -> ModelConfig:
    return config_hf.decoder(keys.with_defaults(HF_DEFAULTS), qwen2.upper_windows)


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    """`attention_bias` is off in the released models."""
    required = {**decoder_shapes(config, layer), **qk_norm_shapes(config, layer)}
    return required, bias_shapes(config, layer, ATTENTION)


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding)
    for layer in net.layers:
        x = ops.add(x, attention(ops, norm(ops, x, layer, "attn_norm"), layer, qk_norm=True))
        x = ops.add(x, gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "silu"))
    return lm_head(ops, x, net)


FAMILY = Family("qwen3", config_gguf.decoder, from_hf, shapes, sanitize, forward)
