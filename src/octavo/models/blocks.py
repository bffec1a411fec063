"""The parts that decoders are made of, in terms of `Ops`, and the shapes of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo.ir import Attention, Ops, Rope, Tensor, Weight
from octavo.models.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: `layer["attn_q"]` is its tensor attn_q.weight."""

    index: int
    weights: Mapping[str, Weight]  # without the "blk.<index>." prefix
    attention: Attention
    rope: Rope
    eps: float

    def __getitem__(self, name: str) -> Weight:
        return self.weights[f"{name}.weight"]

    def bias(self, name: str) -> Weight | None:
        return self.weights.get(f"{name}.bias")


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder's weights and constants, arranged as a forward pass meets them."""

    config: ModelConfig
    embedding: Weight
    layers: tuple[Layer, ...]
    output_norm: Weight
    head: Weight


def norm(ops: Ops, x: Tensor, layer: Layer, name: str) -> Tensor:
    return ops.rms_norm(x, layer[name], layer.eps)


def attention(ops: Ops, x: Tensor, layer: Layer, qk_norm: bool = False) -> Tensor:
    """Grouped-query attention with rotary positions (2305.13245). qk_norm: each head of q and k is normalised first."""
    spec = layer.attention
    q, k, v = (ops.linear(x, layer[name], layer.bias(name)) for name in ("attn_q", "attn_k", "attn_v"))
    if qk_norm:
        q, k = norm(ops, q, layer, "attn_q_norm"), norm(ops, k, layer, "attn_k_norm")
    q, k = ops.rope(q, layer.rope, spec.heads), ops.rope(k, layer.rope, spec.kv_heads)
    return ops.linear(ops.attention(q, k, v, layer.index, spec), layer["attn_output"], layer.bias("attn_output"))


def gated_mlp(ops: Ops, x: Tensor, layer: Layer, activation: str) -> Tensor:
    """SwiGLU and GeGLU (2002.05202)."""
    gate, up = ops.linear(x, layer["ffn_gate"]), ops.linear(x, layer["ffn_up"])
    return ops.linear(ops.gated(gate, up, activation), layer["ffn_down"])


def lm_head(ops: Ops, x: Tensor, net: Network) -> Tensor:
    x = ops.rms_norm(ops.logit_rows(x), net.output_norm, net.config.eps)
    return ops.logits(x, net.head, net.config.logit_softcap)


def decoder_shapes(c: ModelConfig) -> Shapes:
    """The weights that each layer of every family has: (rows, columns)."""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return {
        "attn_norm.weight": (c.hidden,),
        "attn_q.weight": (q, c.hidden),
        "attn_k.weight": (kv, c.hidden),
        "attn_v.weight": (kv, c.hidden),
        "attn_output.weight": (c.hidden, q),
        "ffn_norm.weight": (c.hidden,),
        "ffn_gate.weight": (c.ffn, c.hidden),
        "ffn_up.weight": (c.ffn, c.hidden),
        "ffn_down.weight": (c.hidden, c.ffn),
    }


def bias_shapes(c: ModelConfig) -> Shapes:
    kv = c.kv_heads * c.head_dim
    return {"attn_q.bias": (c.heads * c.head_dim,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}


def qk_norm_shapes(c: ModelConfig) -> Shapes:
    return {"attn_q_norm.weight": (c.head_dim,), "attn_k_norm.weight": (c.head_dim,)}
