"""What follows from a pass alone: which weights lie in one matrix, and how each value is stored. Types have the names
of weights/formats.py; nothing here needs torch, so `octavo plan` can use it on any machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from octavo.backends.cuda.encodings import DENSE
from octavo.backends.cuda.launch import INTERPRETED
from octavo.backends.plan.fuse import fuse
from octavo.backends.plan.nodes import Embed, Gated, Gather, Linear, MatMul, SelfAttention, Trace, Value, reads, writes
from octavo.backends.plan.trace import trace
from octavo.ir import Model, Weight

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
ALIGNED = 16  # columns to which rows are padded, so that each begins on the 16 bytes that TMA wants
Key = tuple[Weight, ...]  # weights whose rows follow one another in one matrix


def fused(model: Model) -> Trace:
    return fuse(trace(model), lambda gate, up: gate.type == up.type)


def by_type(matmuls: Sequence[MatMul]) -> list[list[MatMul]]:
    """Matmuls that one launch can do: of one encoding, and none of them adds to another value or has a gate."""
    groups: dict[object, list[MatMul]] = {}
    for i, matmul in enumerate(matmuls):
        alone = matmul.into is not None or matmul.up is not None
        groups.setdefault(i if alone else matmul.weight.type, []).append(matmul)
    return list(groups.values())


def key(matmuls: Sequence[MatMul]) -> Key:
    return tuple(weight for m in matmuls for weight in (m.weight, m.up) if weight is not None)


def keys(made: Trace) -> list[Key]:
    """Every matrix of the pass, once each."""
    found: dict[Key, None] = {}
    for node in made.nodes:
        if isinstance(node, Embed):
            found[(node.table,)] = None
        elif isinstance(node, Linear):
            found |= {key(group): None for group in by_type(node.matmuls)}
    return list(found)


def operand(weight_type: str) -> str:
    """What a matmul rounds weights and activations to. F16 for quantised weights: it has more fraction bits than bf16,
    and their values are small."""
    return weight_type if weight_type in DENSE else "F16"


def kv_operand(kv: str) -> str:
    """The type of queries and weights in attention: of the keys, or BF16 for int8 codes, which it holds exactly."""
    return "F32" if kv == "f32" else "BF16"


def stored(type: str) -> str:
    """The interpreter multiplies the raw bits of bf16: f32 there."""
    return "F32" if INTERPRETED and type == "BF16" else type


def types(made: Trace) -> dict[Value, str]:
    """Values that only matmuls of one operand type read as they are have that type; others are F32."""
    readers: dict[Value, set[str]] = defaultdict(set)
    for node in made.nodes:
        for value in reads(node):
            readers[value].add("F32")
        if isinstance(node, Linear) and node.norm is None:
            readers[node.x] = (readers[node.x] - {"F32"}) | {stored(operand(m.weight.type)) for m in node.matmuls}
    for node in reversed(made.nodes):  # a gathered value is stored as its parts are
        if isinstance(node, Gather):
            readers[node.x] = readers[node.out]
    made_narrow = {
        out
        for node in made.nodes
        if isinstance(node, SelfAttention | Gated | Linear)
        for out, into in writes(node)
        if into is None and (not isinstance(node, Linear) or any(m.up and m.out == out for m in node.matmuls))
    }
    for node in made.nodes:
        if isinstance(node, Gather) and node.x in made_narrow:
            made_narrow.add(node.out)
    return {
        value: next(iter(found)) if len(found) == 1 and value in made_narrow else "F32"
        for value, found in readers.items()
    }


def aligned(width: int) -> int:
    return -(-width // ALIGNED) * ALIGNED
