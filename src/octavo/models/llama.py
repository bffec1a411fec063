"""Llama (2302.13971, 2307.09288, 2407.21783) and models of the same structure: SmolLM2, Mistral with a window
(2310.06825)."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.ir import Ops, Tensor, Weight
from octavo.models import config_gguf, config_hf
from octavo.models.blocks import attention, bias_shapes, decoder_shapes, gated_mlp, lm_head, norm
from octavo.models.config import ModelConfig
from octavo.models.family import Family, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.names import HF_LAYER, rename_hf


def from_gguf(keys: Keys) -> ModelConfig:
    """Only Llama's GGUF files reorder the rows of q and k: rotary pairs are adjacent."""
    return config_gguf.decoder(keys, interleaved=True)


def from_hf(keys: Keys) -> ModelConfig:
    return config_hf.decoder(keys, windows=lambda keys, layers: (config_hf.window(keys),) * layers)


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    """Some fine-tunes have attention biases."""
    optional = {**bias_shapes(config, layer), "attn_output.bias": (config.hidden,)}
    return decoder_shapes(config, layer), optional


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    return rename_hf(tensors, HF_LAYER)


def forward(ops: Ops, net: Network) -> Tensor:
    x = ops.embed(net.embedding)
    for layer in net.layers:
        x = ops.add(x, attention(ops, norm(ops, x, layer, "attn_norm"), layer))
        x = ops.add(x, gated_mlp(ops, norm(ops, x, layer, "ffn_norm"), layer, "silu"))
    return lm_head(ops, x, net)


FAMILY = Family("llama", from_gguf, from_hf, shapes, sanitize, forward)
