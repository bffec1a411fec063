"""What a model file may call (`Ops`) and what the engine needs of a device (`Backend`).

A model describes one forward pass over a flat batch of T tokens with the verbs of `Ops`. The reference backend computes
as it is called; the CPU backend calls the same function once with a recorder and replays the recording. So a model file
must not look at values, only pass handles on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.types import Batch, StepResult

Tensor = Any  # a handle: an array in the reference backend, a buffer id in the recorder


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight as it lies in the model file. `shape` is (rows N, columns K), or (K,) for vectors.

    `type` is GGUF's name of the encoding ("F32", "Q4_K", ...); `data` its bytes. layout: "rows", as GGUF has them, one
    contiguous row after the other; or "panels", what the CPU backend packs rows into (native/pack.h), in an artifact.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    data: NDArray[np.uint8]
    layout: str = "rows"


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Rotary embedding: angle of pair i at position p is p * inv_freq[i]; cos and sin are multiplied by `scale`.

    interleaved: pairs are (2i, 2i+1) (llama's GGUF order); else (i, i + dim/2) (NeoX order: qwen, gemma, HF files).
    """

    inv_freq: NDArray[np.float32]  # [dim / 2]
    interleaved: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Attention:
    """Geometry of one attention layer. window: a token sees the last `window` positions, itself included (0: all)."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0


class Ops(Protocol):
    """The verbs. T = tokens of the batch, R = logit rows. Activations are float32 rows."""

    def embed(self, table: Weight, scale: float = 1.0) -> Tensor:
        """[T, K]: the table's rows of the batch's token ids, times `scale`."""

    def rms_norm(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last len(weight) values: whole rows, or each head of a row."""

    def linear(self, x: Tensor, weight: Weight, bias: Weight | None = None) -> Tensor:
        """x @ weight.T + bias: [*, K] -> [*, N]."""

    def rope(self, x: Tensor, rope: Rope, heads: int) -> Tensor:
        """Rotates each head of x [T, heads * head_dim] by its token's position."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: Attention) -> Tensor:
        """Writes k and v [T, kv_heads * head_dim] to the layer's cache at the batch's slots, then causal attention
        of q over each sequence's context: [T, heads * head_dim]."""

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """activation(gate) * up, with activation "silu" or "gelu_tanh"."""

    def logit_rows(self, x: Tensor) -> Tensor:
        """[R, K]: the rows whose logits are wanted. Everything after it runs on those rows alone."""

    def logits(self, x: Tensor, head: Weight, softcap: float = 0.0) -> Tensor:
        """[R, V]: the language-model head, softcap * tanh(logits / softcap) when softcap > 0. Ends the forward pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model: what backends need to run it. `forward(ops)` is the whole pass, from `embed` to `logits`."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_context: int
    attention: tuple[Attention, ...]  # one a layer: fixes the cache's geometry
    weights: dict[str, Weight]
    forward: Callable[..., Tensor]  # forward(ops), or forward(ops, layers=...) for these layers alone

    def with_layers(self, layers: Sequence[int]) -> Model:
        """The same model running only these layers, which keep their own weights and their own part of the cache."""
        return replace(self, forward=partial(self.forward, layers=tuple(layers)))


class Backend(Protocol):
    """Runs steps on a device. Owns the KV pool's memory; whose block is whose is the control plane's business."""

    trees: bool  # whether it runs batches with `parents`

    def run(self, batch: Batch) -> StepResult: ...

    def share(self, model: Model) -> Backend:
        """A backend for another pass over the same model (`Model.with_layers`), on the same weights and KV cache, for
        batches of one token a sequence. Close this one last.
        """

    def memory(self) -> dict[str, int]:
        """Bytes by use: "weights", "kv", "scratch"."""

    def close(self) -> None: ...


def branch(batch: Batch, row: int) -> list[int]:
    """The rows from a draft tree's first level down to node `row`; empty for an ordinary row."""
    rows: list[int] = []
    while batch.parents is not None and batch.parents[row] >= 0:
        rows.append(row)
        row = int(batch.parents[row])
    return rows[::-1]
