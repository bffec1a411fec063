"""Tensor parallelism: a rank's share of a model. Matrices are cut by rows, attention by heads, and what a rank has is
gathered before anyone needs all of it. So each sum is made by one rank, in the order of one device: any number of ranks
gives the same bits. The embedding and the head stay whole.

    q, k, v = rows | attention of some heads | gather | o = rows | gather | add
    gate, up = rows | activation             | gather | down = rows | gather | add
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from octavo.backends.plan.nodes import Value
from octavo.backends.plan.trace import Recorder
from octavo.errors import ConfigError
from octavo.ir import Attention, Model, Rope, Weight


class Share(NamedTuple):
    rank: int
    ranks: int

    def of(self, size: int, what: str) -> slice:
        """This rank's part of `size` things. Raises ConfigError if the ranks cannot have as many each."""
        if size % self.ranks:
            raise ConfigError(f"tensor_parallel_size is {self.ranks}, which does not divide the model's {size} {what}")
        each = size // self.ranks
        return slice(self.rank * each, (self.rank + 1) * each)


def sharded(model: Model, share: Share) -> Model:
    """The model as this rank has it: fewer heads and rows. Raises ConfigError if it cannot be cut."""
    weights: dict[Weight, Weight] = {}  # each is cut once, so that passes that share the model share its matrices

    def forward(recorder: Recorder, **layers: Sequence[int]) -> Any:
        return model.forward(Sharded(recorder, share, weights), **layers)

    return replace(model, attention=tuple(heads(spec, share) for spec in model.attention), forward=forward)


def heads(spec: Attention, share: Share) -> Attention:
    mine = share.of(spec.kv_heads, "KV heads")
    each = mine.stop - mine.start
    return replace(spec, heads=each * (spec.heads // spec.kv_heads), kv_heads=each)


def rows(weight: Weight, share: Share) -> Weight:
    """This rank's rows: a part of the file's bytes, not a copy."""
    mine = share.of(weight.shape[0], f"rows of {weight.name}")
    shape = (mine.stop - mine.start, *weight.shape[1:])
    return replace(weight, shape=shape, data=weight.data.reshape(weight.shape[0], -1)[mine].reshape(-1))


class Sharded:
    """`Ops` of one rank. A value is whole, or this rank's columns of it."""

    def __init__(self, recorder: Recorder, share: Share, weights: dict[Weight, Weight]):
        self.ops, self.share, self.weights = recorder, share, weights
        self.inner: set[Value] = set()  # attention's and activations' values, gathered: what o and down read

    def _rows(self, weight: Weight) -> Weight:
        if weight not in self.weights:
            self.weights[weight] = rows(weight, self.share)
        return self.weights[weight]

    def _gathered(self, x: Value) -> Value:
        out = self.ops.gather(x, self.share.ranks)
        self.inner.add(out)
        return out

    def embed(self, table: Weight, scale: float = 1.0) -> Value:
        return self.ops.embed(table, scale)

    def rms_norm(self, x: Value, weight: Weight, eps: float) -> Value:
        return self.ops.rms_norm(x, weight, eps)

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value:
        out = self.ops.linear(x, self._rows(weight), None if bias is None else self._rows(bias))
        return self.ops.gather(out, self.share.ranks) if x in self.inner else out

    def rope(self, x: Value, rope: Rope, heads: int) -> Value:
        return self.ops.rope(x, rope, heads // self.share.ranks)

    def attention(self, q: Value, k: Value, v: Value, layer: int, spec: Attention) -> Value:
        return self._gathered(self.ops.attention(q, k, v, layer, heads(spec, self.share)))

    def add(self, x: Value, y: Value) -> Value:
        return self.ops.add(x, y)

    def gated(self, gate: Value, up: Value, activation: str) -> Value:
        return self._gathered(self.ops.gated(gate, up, activation))

    def logit_rows(self, x: Value) -> Value:
        return self.ops.logit_rows(x)

    def logits(self, x: Value, head: Weight, softcap: float = 0.0) -> Value:
        return self.ops.logits(x, head, softcap)
