"""The parts that decoders are made of, in terms of `Ops`, and the shapes of their weights."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.ir import Ops, Tensor
from octavo.models.config import ModelConfig
from octavo.models.family import Layer, Network, Shapes

QKV = ("attn_q", "attn_k", "attn_v")
ATTENTION = (*QKV, "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")


def norm(ops: Ops, x: Tensor, layer: Layer, name: str) -> Tensor:
    return ops.rms_norm(x, layer[name], layer.eps)


def attention(ops: Ops, x: Tensor, layer: Layer, qk_norm: bool = False) -> Tensor:
    """Grouped-query attention with rotary positions (2305.13245). qk_norm: each head of q and k is normalised first."""
    spec = layer.attention
    q, k, v = (ops.linear(x, layer[name], layer.bias(name)) for name in QKV)
    if qk_norm:
        q, k = norm(ops, q, layer, "attn_q_norm"), norm(ops, k, layer, "attn_k_norm")
    if layer.rope:
        q, k = ops.rope(q, layer.rope, spec.heads), ops.rope(k, layer.rope, spec.kv_heads)
    return ops.linear(ops.attention(q, k, v, layer.index, spec), layer["attn_output"], layer.bias("attn_output"))


def gated_mlp(ops: Ops, x: Tensor, layer: Layer, activation: str) -> Tensor:
    """SwiGLU and GeGLU (2002.05202)."""
    gate, up = (ops.linear(x, layer[name], layer.bias(name)) for name in ("ffn_gate", "ffn_up"))
    return ops.linear(ops.gated(gate, up, activation), layer["ffn_down"], layer.bias("ffn_down"))


def lm_head(ops: Ops, x: Tensor, net: Network) -> Tensor:
    x = ops.rms_norm(ops.logit_rows(x), net.output_norm, net.config.eps)
    return ops.logits(x, net.head, net.config.logit_softcap)


def decoder_shapes(c: ModelConfig, layer: int) -> Shapes:
    """The weights of attention and a gated MLP, with a norm before each."""
    a, ffn = c.layers[layer].attention, c.layers[layer].ffn
    return {
        "attn_norm.weight": (c.hidden,),
        "attn_q.weight": (a.heads * a.head_dim, c.hidden),
        "attn_k.weight": (a.kv_heads * a.head_dim, c.hidden),
        "attn_v.weight": (a.kv_heads * a.value_dim, c.hidden),
        "attn_output.weight": (c.hidden, a.heads * a.value_dim),
        "ffn_norm.weight": (c.hidden,),
        "ffn_gate.weight": (ffn, c.hidden),
        "ffn_up.weight": (ffn, c.hidden),
        "ffn_down.weight": (c.hidden, ffn),
    }


def bias_shapes(c: ModelConfig, layer: int, names: Sequence[str]) -> Shapes:
    """The biases of these projections."""
    return {f"{name}.bias": decoder_shapes(c, layer)[f"{name}.weight"][:1] for name in names}


def qk_norm_shapes(c: ModelConfig, layer: int) -> Shapes:
    """The norms of each head of q and k."""
    head_dim = c.layers[layer].attention.head_dim
    return {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
