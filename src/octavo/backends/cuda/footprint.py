"""What the CUDA backend would take, by arithmetic: no GPU, no torch, and of weights only shapes.

It walks the pass as lower.py does, where a buffer is used again after its value's last reader. Tests compare both."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from octavo.backends.cuda import values
from octavo.backends.cuda.encodings import DENSE, arrange
from octavo.backends.cuda.launch import HEAD_ROWS, LOGITS, MAX_PARTS, RECORD
from octavo.backends.cuda.values import BYTES, Key, aligned
from octavo.backends.cuda.work import blob_size, max_rows, view
from octavo.backends.plan.nodes import (
    Embed,
    Gated,
    Gather,
    Linear,
    LogitRows,
    Logits,
    Norm,
    SelfAttention,
    Trace,
    Value,
    last_reads,
    writes,
)
from octavo.config import CacheConfig
from octavo.ir import Model
from octavo.kv.planner import block_bytes, blocks_for


def footprint(
    model: Model, cache: CacheConfig, *, max_tokens: int, max_seqs: int, max_context: int | None
) -> dict[str, int]:
    """Bytes of "weights", "kv" and "scratch": what `CudaBackend.memory` says, given the same arguments."""
    nodes, context = values.fused(model), max_context or model.max_context
    views = {view(spec, cache.dtype) for spec in model.attention}
    blob = 4 * blob_size(len(views), max_tokens, max_seqs, blocks_for(context, cache.block_size))
    records = 4 * RECORD * max_rows(max_tokens, max_seqs)
    height = min(HEAD_ROWS, max_tokens)
    tail = height * (8 * -(-model.vocab_size // LOGITS) + 4 * model.vocab_size)
    return {
        "weights": sum(matrix_bytes(each) for each in values.keys(nodes)),
        "kv": cache.num_blocks * block_bytes(model.attention, cache.block_size, cache.dtype),
        "scratch": blob + records + tail + Buffers(nodes, cache.dtype, max_tokens, height).run(context),
    }


def matrix_bytes(weights: Key) -> int:
    first, rows = weights[0], sum(weight.shape[0] for weight in weights)
    if first.type in DENSE:
        return rows * aligned(first.shape[1]) * BYTES[first.type]
    return rows * sum(part.nbytes for part in arrange(first, slice(0, 1)) if part is not None)


Kind = tuple[bool, int, str]  # whether its rows are logit rows, width, type


@dataclass(eq=False)
class Buffer:
    kind: Kind
    users: int = 0  # values that live in it


class Buffers:
    """Adds up the buffers of `lower.Lowering`."""

    def __init__(self, trace: Trace, kv: str, max_tokens: int, head_rows: int):
        self.trace, self.kv = trace, kv
        self.heights = {False: max_tokens, True: head_rows}
        self.types = values.types(trace)
        self.stored: dict[Value, str] = {}
        self.owners: dict[Value, Buffer] = {}
        self.free: dict[Kind, int] = defaultdict(int)
        self.in_head = False
        self.bytes = 0

    def run(self, context: int) -> int:
        specs = {node.layer: node.spec for node in self.trace.nodes if isinstance(node, SelfAttention)}.values()
        ropes = {node.rope for node in self.trace.nodes if isinstance(node, SelfAttention) and node.rope}
        self.bytes += sum(context * 2 * len(rope.inv_freq) * 4 for rope in ropes)
        parts = max(spec.heads * spec.value_dim for spec in specs) + 2 * max(spec.heads for spec in specs)
        self.bytes += MAX_PARTS * parts * 4
        last = next(node.x for node in self.trace.nodes if isinstance(node, Logits))
        for node, done in zip(self.trace.nodes, last_reads(self.trace), strict=True):
            self.in_head = self.in_head or isinstance(node, LogitRows)
            for out, into in writes(node):
                if into is not None:
                    self._own(out, self.owners[into], self.stored[into])
            if isinstance(node, Linear):
                self._linear(node)
                if any(matmul.out == last for matmul in node.matmuls):  # the hidden states, where they are asked for
                    self.bytes += self.heights[True] * self.trace.widths[node.x] * 4
            elif isinstance(node, SelfAttention):
                prepared = self._take(node.spec.heads * node.spec.head_dim, values.stored(values.kv_operand(self.kv)))
                self._new(node.out)
                self._give(prepared)
            elif isinstance(node, Embed | Gated | Gather | LogitRows) or (isinstance(node, Norm) and node.into is None):
                self._new(node.out)
            for value in done:
                self._release(value)
        return self.bytes

    def _linear(self, node: Linear) -> None:
        operands: dict[str, Kind] = {}
        for group in values.by_type(node.matmuls):
            type = values.stored(values.operand(group[0].weight.type))
            if (node.norm is not None or self.stored[node.x] != type) and type not in operands:
                operands[type] = self._take(self.trace.widths[node.x], type)
            if group[0].into is not None:
                continue
            kind = self._take(sum(weight.shape[0] for weight in values.key(group)), "F32")
            if group[0].up is not None:
                self._new(group[0].out)
                self._give(kind)
                continue
            buffer = Buffer(kind)
            for matmul in group:
                self._own(matmul.out, buffer, "F32")
        for kind in operands.values():
            self._give(kind)

    def _take(self, width: int, type: str) -> Kind:
        kind = (self.in_head, width, type)
        if self.free[kind]:
            self.free[kind] -= 1
        else:
            self.bytes += self.heights[self.in_head] * aligned(width) * BYTES[type]
        return kind

    def _give(self, kind: Kind) -> None:
        self.free[kind] += 1

    def _own(self, value: Value, buffer: Buffer, type: str) -> None:
        buffer.users += 1
        self.owners[value], self.stored[value] = buffer, type

    def _new(self, value: Value) -> None:
        type = self.types.get(value, "F32")
        self._own(value, Buffer(self._take(self.trace.widths[value], type)), type)

    def _release(self, value: Value) -> None:
        buffer = self.owners.pop(value)
        buffer.users -= 1
        if not buffer.users:
            self._give(buffer.kind)
