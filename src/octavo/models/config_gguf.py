"""Readers of GGUF metadata that most families share. The keys are those of GGUF's specification ("block_count").

`Keys` puts the architecture before them: "llama.block_count".
"""

from __future__ import annotations

import math

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
    SOFTCAP,
    THETA,
    VOCAB,
    ModelConfig,
    Sizes,
    make_config,
)
from octavo.models.keys import Keys
from octavo.models.rope import RopeConfig, scaling_from_gguf


def decoder(keys: Keys, interleaved: bool = False) -> ModelConfig:
    """A decoder with uniform layers. interleaved: rotary pairs are (2i, 2i+1).

    Every layer sees everything. llama.cpp defines no window for these architectures, so a file's key has no effect.
    """
    no_experts(keys)
    size = sizes(keys)
    rotation = rope(keys, size, interleaved=interleaved)
    return make_config(size, attention(keys, size), (0,) * size.layers, rotation, logit_softcap=logit_softcap(keys))


def no_experts(keys: Keys) -> None:
    """Refuses mixtures of experts. They may use the dense model's architecture name: Mixtral's is "llama"."""
    keys.integer("expert_count", 0, 0, 0)


def sizes(keys: Keys) -> Sizes:
    """Keys and values must be equally wide."""
    hidden, heads = keys.integer("embedding_length", *HIDDEN), keys.integer("attention.head_count", *HEADS)
    head_dim = keys.integer("attention.key_length", *HEAD_DIM, hidden // heads)
    keys.integer("attention.value_length", head_dim, head_dim, head_dim)
    return Sizes(
        layers=keys.integer("block_count", *LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", *HEADS, heads),
        head_dim=head_dim,
        ffn=keys.integer("feed_forward_length", *FFN),
        vocab=vocab(keys),
        context=keys.integer("context_length", *CONTEXT),
        eps=keys.number("attention.layer_norm_rms_epsilon", *EPS),
    )


def vocab(keys: Keys) -> int:
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if tokens is None and keys.get("vocab_size") is None:
        raise ModelFileError(f"model metadata: neither {keys.prefix}vocab_size nor tokenizer.ggml.tokens is there")
    return keys.integer("vocab_size", *VOCAB, None if tokens is None else len(tokens))


def attention(keys: Keys, size: Sizes, query_dim: float | None = None) -> Attention:
    """query_dim: the scale is 1 / sqrt(query_dim), by default of the head dimension."""
    scale = keys.number("attention.scale", 1e-6, 1e3, 1 / math.sqrt(query_dim or size.head_dim))
    softcap = keys.number("attn_logit_softcapping", *SOFTCAP, 0.0)
    return Attention(size.heads, size.kv_heads, size.head_dim, scale, softcap=softcap)


def rope(keys: Keys, size: Sizes, theta: float = 1e4, interleaved: bool = False) -> RopeConfig:
    """The rope of whole heads. theta: the base if the file does not state one."""
    dim = keys.integer("rope.dimension_count", size.head_dim, size.head_dim, size.head_dim)
    base = keys.number("rope.freq_base", *THETA, theta)
    return RopeConfig(dim, base, scaling_from_gguf(keys, size.context), interleaved)


def logit_softcap(keys: Keys) -> float:
    return keys.number("final_logit_softcapping", *SOFTCAP, 0.0)
