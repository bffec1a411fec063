"""The nodes of a traced forward pass, before and after fusion, with the values they read and write.

A value is named by a number; it is [rows, width] float32. A node may write *into* the buffer of a value that it reads
for the last time: `into` names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.ir import Attention, Rope, Weight

Value = int


@dataclass(slots=True)
class Embed:
    out: Value
    table: Weight
    scale: float


@dataclass(slots=True)
class Norm:
    """RMS norm of each slice of len(weight) values; with `into`, added to that value instead of stored."""

    x: Value
    weight: Weight
    eps: float
    out: Value
    into: Value | None = None


@dataclass(slots=True)
class MatMul:
    """out = weight x (+ bias); with `up`, activation(weight x) * (up x); with `into`, added to that value."""

    weight: Weight
    out: Value
    bias: Weight | None = None
    up: Weight | None = None
    activation: str = ""
    into: Value | None = None


@dataclass(slots=True)
class Linear:
    """Matmuls that share their input, which is normalised first when `norm` is given."""

    x: Value
    matmuls: list[MatMul]
    norm: Norm | None = None


@dataclass(slots=True)
class Rotate:
    """Rotary embedding of each head; `fuse` moves it into `SelfAttention`."""

    x: Value
    rope: Rope
    heads: int
    out: Value


@dataclass(slots=True)
class SelfAttention:
    """Cache write and attention; q and k may be normalised by head and rotated first. Both happen in q's own buffer."""

    q: Value
    k: Value
    v: Value
    layer: int
    spec: Attention
    out: Value
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    rope: Rope | None = None


@dataclass(slots=True)
class Add:
    """out = x + y, in y's buffer."""

    x: Value
    y: Value
    out: Value


@dataclass(slots=True)
class Gated:
    gate: Value
    up: Value
    activation: str
    out: Value


@dataclass(slots=True)
class LogitRows:
    x: Value
    out: Value


@dataclass(slots=True)
class Logits:
    x: Value
    softcap: float


@dataclass(slots=True)
class Gather:
    """out = every rank's columns of x, side by side: see shard.py."""

    x: Value
    out: Value


Node = Embed | Norm | Linear | Rotate | SelfAttention | Add | Gated | Gather | LogitRows | Logits


@dataclass(slots=True)
class Trace:
    """A forward pass as a list, and the width of each value."""

    nodes: list[Node] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)


def reads(node: Node) -> list[Value]:
    """The values a node needs, those it writes into included."""
    match node:
        case Embed():
            return []
        case Norm(x=x, into=into):
            return [x] if into is None else [x, into]
        case Linear(x=x, matmuls=matmuls):
            return [x, *(m.into for m in matmuls if m.into is not None)]
        case SelfAttention(q=q, k=k, v=v):
            return [q, k, v]
        case Add(x=x, y=y):
            return [x, y]
        case Gated(gate=gate, up=up):
            return [gate, up]
        case Rotate(x=x) | Gather(x=x) | LogitRows(x=x) | Logits(x=x):
            return [x]


def writes(node: Node) -> list[tuple[Value, Value | None]]:
    """(value, the value whose buffer it takes over or None) for each result."""
    match node:
        case Linear(matmuls=matmuls):
            return [(m.out, m.into) for m in matmuls]
        case Norm(out=out, into=into):
            return [(out, into)]
        case Add(y=y, out=out):
            return [(out, y)]
        case Logits():
            return []
        case Embed(out=out) | Rotate(out=out) | SelfAttention(out=out) | Gated(out=out) | Gather(out=out):
            return [(out, None)]
        case LogitRows(out=out):
            return [(out, None)]


def last_reads(trace: Trace) -> list[set[Value]]:
    """For each node, the values that it is the last to read: their buffers are free after it."""
    last = {value: i for i, node in enumerate(trace.nodes) for value in reads(node)}
    return [{value for value in reads(node) if last[value] == i} for i, node in enumerate(trace.nodes)]
