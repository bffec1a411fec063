"""Fusion: peephole passes over a trace, for every device that replays one.

Each pass looks for one pattern and rewrites it. Together they turn a decoder layer into: norm + q, k and v; head norms
+ rotation + cache write + attention; matmul + residual; norm + gate and up; matmul + residual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from octavo.backends.plan.nodes import (
    Add,
    Gated,
    Linear,
    LogitRows,
    Node,
    Norm,
    Rotate,
    SelfAttention,
    Trace,
    Value,
    reads,
    writes,
)
from octavo.ir import Weight

Alike = Callable[[Weight, Weight], bool]  # whether one matmul on this device can use both weights


def fuse(trace: Trace, alike: Alike) -> Trace:
    """Applies every pass in turn. Changes the trace's nodes, so the caller must not use the original afterwards."""
    passes: tuple[Callable[[Trace], list[Node]], ...] = (
        wanted_rows,
        prepare_heads,
        lambda trace: gate_up(trace, alike),
        residuals,
        shared_inputs,
        norms_into_linears,
    )
    for rewrite in passes:
        trace = Trace(rewrite(trace), trace.widths)
    return trace


def _producers(nodes: list[Node]) -> dict[Value, Node]:
    return {value: node for node in nodes for value, _ in writes(node)}


def _uses(nodes: list[Node]) -> Counter[Value]:
    return Counter(value for node in nodes for value in reads(node))


def wanted_rows(trace: Trace) -> list[Node]:
    """After the last attention tokens are independent, so only the requested logit rows are computed from there."""
    nodes = trace.nodes
    start = max((i for i, node in enumerate(nodes) if isinstance(node, SelfAttention)), default=len(nodes)) + 1
    end = next((i for i, node in enumerate(nodes) if isinstance(node, LogitRows)), 0)
    if start >= end:
        return nodes
    tail, gather = nodes[start:end], nodes[end]
    assert isinstance(gather, LogitRows)
    made = _producers(tail)
    names: dict[Value, Value] = {}  # a value from before the tail -> the value of its requested rows
    for value in (value for node in tail for value in reads(node)):
        if value not in made and value not in names:
            names[value] = len(trace.widths)
            trace.widths.append(trace.widths[value])
    for node in tail:
        _rename(node, names)
    for node in nodes[end + 1 :]:
        _rename(node, {gather.out: gather.x})
    return [*nodes[:start], *(LogitRows(*pair) for pair in names.items()), *tail, *nodes[end + 1 :]]


def _rename(node: Node, names: dict[Value, Value]) -> None:
    """Renames the values that a node reads. Only for traced nodes: fused nodes read more."""
    for field in ("x", "y", "gate", "up"):
        if (value := getattr(node, field, None)) in names:
            setattr(node, field, names[value])


def prepare_heads(trace: Trace) -> list[Node]:
    """Merges the rope of q and k, and their per-head norms, into attention."""
    made, uses = _producers(trace.nodes), _uses(trace.nodes)
    gone: set[int] = set()
    for node in trace.nodes:
        if not isinstance(node, SelfAttention):
            continue
        q, k = made.get(node.q), made.get(node.k)
        if isinstance(q, Rotate) and isinstance(k, Rotate) and q.rope is k.rope and uses[q.out] == uses[k.out] == 1:
            node.rope, node.q, node.k = q.rope, q.x, k.x
            gone |= {id(q), id(k)}
        q, k, head = made.get(node.q), made.get(node.k), (node.spec.head_dim,)
        if isinstance(q, Norm) and isinstance(k, Norm) and q.weight.shape == k.weight.shape == head:
            node.q_norm, node.k_norm, node.q, node.k = q, k, q.x, k.x
            gone |= {id(q), id(k)}
    return [node for node in trace.nodes if id(node) not in gone]


def gate_up(trace: Trace, alike: Alike) -> list[Node]:
    """Merges activation(gate x) * (up x) into one matmul with two weights if both read the same x."""
    made, uses = _producers(trace.nodes), _uses(trace.nodes)
    gone: set[int] = set()
    for node in trace.nodes:
        if isinstance(node, Gated):
            gate, up = made[node.gate], made[node.up]
            if (
                isinstance(gate, Linear)
                and isinstance(up, Linear)
                and gate.x == up.x
                and uses[node.gate] == uses[node.up] == 1
                and gate.matmuls[0].bias is up.matmuls[0].bias is None
                and alike(gate.matmuls[0].weight, up.matmuls[0].weight)
            ):
                matmul = gate.matmuls[0]
                matmul.up, matmul.activation, matmul.out = up.matmuls[0].weight, node.activation, node.out
                gone |= {id(up), id(node)}
    return [node for node in trace.nodes if id(node) not in gone]


def residuals(trace: Trace) -> list[Node]:
    """Lets f add x + f(...) into x's buffer if nothing reads x afterwards."""
    nodes, made, uses = trace.nodes, _producers(trace.nodes), _uses(trace.nodes)
    last = {value: i for i, node in enumerate(nodes) for value in reads(node)}
    out: list[Node] = []
    for i, node in enumerate(nodes):
        if isinstance(node, Add) and last[node.x] == i and uses[node.y] == 1:
            source = made[node.y]
            # f must come right before the addition: nothing between them may see x already changed.
            if isinstance(source, Linear | Norm) and out and out[-1] is source:
                target = source.matmuls[0] if isinstance(source, Linear) else source
                target.into, target.out = node.x, node.out
                continue
        out.append(node)
    return out


def shared_inputs(trace: Trace) -> list[Node]:
    """Merges adjacent linears of one input: it is quantised once, and there is no barrier between their matmuls."""
    out: list[Node] = []
    for node in trace.nodes:
        previous = out[-1] if out else None
        if isinstance(node, Linear) and isinstance(previous, Linear) and previous.x == node.x:
            previous.matmuls += node.matmuls
        else:
            out.append(node)
    return out


def norms_into_linears(trace: Trace) -> list[Node]:
    """Merges a whole-row norm into the linear that is its only reader."""
    uses = _uses(trace.nodes)
    out: list[Node] = []
    for node in trace.nodes:
        previous = out[-1] if out else None
        if (
            isinstance(node, Linear)
            and isinstance(previous, Norm)
            and previous.out == node.x
            and previous.into is None
            and uses[node.x] == 1
            and trace.widths[previous.x] == previous.weight.shape[0]
        ):
            out.pop()
            node.norm, node.x = previous, previous.x
        out.append(node)
    return out
