"""A backend's view of a model: weights, geometry, and one forward pass written in the operations of `Ops`.

The pass runs over a flat batch of T tokens. The reference backend computes as it is called; other backends call the
function once with a recorder and replay the recording. So a model file never reads values: it only passes handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = Any  # a handle: an array in the reference backend, a value's number in the recorder
ROWS = 0  # `Weight.layout`: as in GGUF, consecutive contiguous rows


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight as stored in the model file. `shape` is (rows N, columns K), or (K,) for vectors.

    `type` is GGUF's name of the encoding ("F32", "Q4_K", ...); `data` its bytes. layout: ROWS, or in an artifact the
    version of the CPU backend's panels (native/pack.h). A backend refuses a layout that it cannot read.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    data: NDArray[np.uint8]
    layout: int = ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Rotary embedding: angle of pair i at position p is p * inv_freq[i]; cos and sin are multiplied by `scale`.

    The first dim values of a head are rotated, the others stay as they are.
    interleaved: pairs are (2i, 2i+1) (llama's GGUF order); else (i, i + dim/2) (NeoX order: qwen, gemma, HF files).
    """

    inv_freq: NDArray[np.float32]  # [dim / 2]
    interleaved: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Attention:
    """Geometry of one attention layer.

    head_dim: of queries and keys. value_dim: of values and of a head's output; 0 means head_dim.
    window: a token sees the last `window` positions, itself included (0: all).
    softcap: scores are cap * tanh(score / cap); 0 is off.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    value_dim: int = 0

    def __post_init__(self) -> None:
        if not self.value_dim:
            object.__setattr__(self, "value_dim", self.head_dim)


class Ops(Protocol):
    """The operations. T = tokens of the batch, R = logit rows. Activations are float32 rows."""

    def embed(self, table: Weight, scale: float = 1.0) -> Tensor:
        """[T, K]: the table's rows of the batch's token ids, times `scale`."""

    def rms_norm(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last len(weight) values: whole rows, or each head of a row."""

    def linear(self, x: Tensor, weight: Weight, bias: Weight | None = None) -> Tensor:
        """x @ weight.T + bias: [*, K] -> [*, N]."""

    def rope(self, x: Tensor, rope: Rope, heads: int) -> Tensor:
        """Rotates the first values of each head of x [T, heads * head_dim] by its token's position."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: Attention) -> Tensor:
        """Writes k [T, kv_heads * head_dim] and v [T, kv_heads * value_dim] to the layer's cache at the batch's slots,
        then causal attention of q over each sequence's context: [T, heads * value_dim]."""

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """activation(gate) * up, with activation "silu" or "gelu_tanh"."""

    def logit_rows(self, x: Tensor) -> Tensor:
        """[R, K]: the rows whose logits are requested. Later operations run on these rows only."""

    def logits(self, x: Tensor, head: Weight, softcap: float = 0.0) -> Tensor:
        """[R, V]: the language-model head, softcap * tanh(logits / softcap) when softcap > 0. Ends the forward pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model: what backends need to run it. `forward(ops)` is the whole pass, from `embed` to `logits`.

    has_head: False: the file has no language-model head. The pass takes the embeddings for it, which are packed anyway.
    Its hidden states are those of the model, its logits mean nothing.
    """

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_context: int
    attention: tuple[Attention, ...]  # one a layer: fixes the cache's geometry
    weights: dict[str, Weight]
    forward: Callable[..., Tensor]  # forward(ops), or forward(ops, layers=...) for these layers only
    has_head: bool = True

    def with_layers(self, layers: Sequence[int]) -> Model:
        """The same model running only these layers. Each keeps its weights and its part of the cache."""
        return replace(self, forward=partial(self.forward, layers=tuple(layers)))
