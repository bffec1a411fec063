"""Tracing: runs a model's forward pass once with a recorder, an `Ops` that records operations instead of running
them."""

from __future__ import annotations

from octavo.backends.plan.nodes import (
    Add,
    Embed,
    Gated,
    Gather,
    Linear,
    LogitRows,
    Logits,
    MatMul,
    Node,
    Norm,
    Rotate,
    SelfAttention,
    Trace,
    Value,
)
from octavo.ir import Attention, Model, Rope, Weight


def trace(model: Model) -> Trace:
    """The model's forward pass, one node for each operation."""
    recorder = Recorder()
    model.forward(recorder)
    return recorder.trace


class Recorder:
    """`Ops` whose tensors are the numbers of values."""

    def __init__(self) -> None:
        self.trace = Trace()

    def _value(self, width: int) -> Value:
        self.trace.widths.append(width)
        return len(self.trace.widths) - 1

    def _add(self, node: Node) -> None:
        self.trace.nodes.append(node)

    def _width(self, x: Value) -> int:
        return self.trace.widths[x]

    def embed(self, table: Weight, scale: float = 1.0) -> Value:
        out = self._value(table.shape[1])
        self._add(Embed(out, table, scale))
        return out

    def rms_norm(self, x: Value, weight: Weight, eps: float) -> Value:
        out = self._value(self._width(x))
        self._add(Norm(x, weight, eps, out))
        return out

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value:
        out = self._value(weight.shape[0])
        self._add(Linear(x, [MatMul(weight, out, bias)]))
        return out

    def rope(self, x: Value, rope: Rope, heads: int) -> Value:
        out = self._value(self._width(x))
        self._add(Rotate(x, rope, heads, out))
        return out

    def attention(self, q: Value, k: Value, v: Value, layer: int, spec: Attention) -> Value:
        out = self._value(spec.heads * spec.value_dim)
        self._add(SelfAttention(q, k, v, layer, spec, out))
        return out

    def gather(self, x: Value, ranks: int) -> Value:
        """Not one of `Ops`: plan/shard.py adds it."""
        out = self._value(ranks * self._width(x))
        self._add(Gather(x, out))
        return out

    def add(self, x: Value, y: Value) -> Value:
        out = self._value(self._width(x))
        self._add(Add(x, y, out))
        return out

    def gated(self, gate: Value, up: Value, activation: str) -> Value:
        out = self._value(self._width(gate))
        self._add(Gated(gate, up, activation, out))
        return out

    def logit_rows(self, x: Value) -> Value:
        out = self._value(self._width(x))
        self._add(LogitRows(x, out))
        return out

    def logits(self, x: Value, head: Weight, softcap: float = 0.0) -> Value:
        out = self.linear(x, head)
        self._add(Logits(out, softcap))
        return out
