"""A family that Octavo does not have, as a contributor would write its file: octavo/models/toy.py.

Attention and MLP read the same normalised input and are added together. Layers differ in kv heads and MLP width, keys
and values in theirs. Every other layer rotates a part of each head, the others rotate nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.errors import ModelFileError
from octavo.ir import Attention, Ops, Tensor, Weight
from octavo.models.blocks import attention, decoder_shapes, gated_mlp, lm_head, norm
from octavo.models.config import LayerConfig, ModelConfig
from octavo.models.family import Family, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.names import HF_LAYER, rename_hf
from octavo.models.rope import RopeConfig

HF_KEYS = {
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "embedding_scale": "embedding_multiplier",
    "rope.dimension_count": "rotary_dim",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class ToyConfig(ModelConfig):
    embedding_scale: float = 1.0


def from_gguf(keys: Keys) -> ToyConfig:
    heads, head_dim = keys.integer("attention.head_count", 1, 64), keys.integer("attention.key_length", 2, 512)
    value_dim, rotated = keys.integer("attention.value_length", 2, 512), keys.integer("rope.dimension_count", 2, 512)
    kv_heads, ffn = each_layer(keys, "attention.head_count_kv"), each_layer(keys, "feed_forward_length")
    layers = tuple(
        LayerConfig(
            Attention(heads, kv_heads[i], head_dim, head_dim**-0.5, value_dim=value_dim),
            RopeConfig(rotated, 1e4) if i % 2 == 0 else None,
            ffn[i],
        )
        for i in range(len(ffn))
    )
    return ToyConfig(
        hidden=keys.integer("embedding_length", 8, 4096),
        vocab=keys.integer("vocab_size", 1, 1 << 20),
        context=keys.integer("context_length", 1, 1 << 20),
        eps=1e-6,
        layers=layers,
        embedding_scale=keys.number("embedding_scale", 0.01, 100),
    )


def from_hf(keys: Keys) -> ToyConfig:
    return from_gguf(Keys({gguf: keys.get(hf) for gguf, hf in HF_KEYS.items()}))


def each_layer(keys: Keys, key: str) -> list[int]:
    values: Any = keys.get(key)
    if values is None or not all(0 < value < 1 << 16 for value in values):
        raise ModelFileError(f"model metadata: {keys.prefix}{key} must be positive integers, one for each layer")
    return [int(value) for value in values]


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    required = decoder_shapes(config, layer)
    del required["ffn_norm.weight"]  # there is one norm for both
    return required, {}


def sanitize(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    return rename_hf(tensors, HF_LAYER)


def forward(ops: Ops, net: Network) -> Tensor:
    assert isinstance(net.config, ToyConfig)
    x = ops.embed(net.embedding, net.config.embedding_scale)
    for layer in net.layers:
        h = norm(ops, x, layer, "attn_norm")
        x = ops.add(x, ops.add(attention(ops, h, layer), gated_mlp(ops, h, layer, "silu")))
    return lm_head(ops, x, net)


FAMILY = Family("toy", from_gguf, from_hf, shapes, sanitize, forward)
