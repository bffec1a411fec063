"""Llama (2302.13971, 2307.09288, 2407.21783) and models of the same structure, such as SmolLM2."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.ir import Ops, Tensor, Weight
from octavo.models import config_gguf, config_hf
from octavo.models.blocks import ATTENTION, MLP, attention, bias_shapes, decoder_shapes, gated_mlp, lm_head, norm
from octavo.models.config import ModelConfig
from octavo.models.family import Family, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.names import HF_LAYER, rename_hf


def from_gguf(keys: Keys) -> ModelConfig:
    """Only Llama's GGUF files reorder the rows of q and k: rotary pairs are adjacent."""
    return config_gguf.decoder(keys, interleaved=True)


def from_hf(keys: Keys) -> ModelConfig:
    """Without windows: transformers ignores `sliding_window` in a llama, which some converted Mistrals still have."""
    keys = keys.with_defaults({"max_position_embeddings": 2048})
    return config_hf.decoder(keys, lambda keys, layers: config_hf.same_window(keys, layers, 0))


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    """Some models have biases (`attention_bias`, `mlp_bias`)."""
    return decoder_shapes(config, layer), bias_shapes(config, layer, ATTENTION + MLP)


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    return rename_hf(tensors, HF_LAYER)


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding)
    for layer in net.layers:
        x = ops.add(x, attention(ops, norm(ops, x, layer, "attn_norm"), layer))
        x = ops.add(x, gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "silu"))
    return lm_head(ops, x, net)


FAMILY = Family("llama", from_gguf, from_hf, shapes, sanitize, forward)
