"""Lowering: a fused trace to launches over static buffers.

An operation is a function of the step's `Fields` that returns its launches: the buffers never change, the grids follow
from the number of rows. A buffer is used again after its value's last reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.backends.cuda import attention, layout, values
from octavo.backends.cuda.encodings import padded
from octavo.backends.cuda.kernels import elementwise, embed, matmul
from octavo.backends.cuda.launch import INTERPRETED, Launch, chunk_columns, matmul_tile, rows_at_once
from octavo.backends.cuda.layout import Matrix
from octavo.backends.cuda.parallel import Ranks, gathering
from octavo.backends.cuda.pool import KvPool
from octavo.backends.cuda.step import Fields, Steps
from octavo.backends.cuda.values import by_type, key
from octavo.backends.cuda.weights import Weights
from octavo.backends.plan.nodes import (
    Add,
    Embed,
    Gated,
    Gather,
    Linear,
    LogitRows,
    Logits,
    MatMul,
    Norm,
    SelfAttention,
    Trace,
    Value,
    last_reads,
    writes,
)
from octavo.ir import Rope, Weight

Op = Callable[[Fields], list[Launch]]
ROOM = 1 / 16  # a gated activation in f16 is stored times this: values up to a million fit (docs/cuda.md)
BLOCK = 1024  # columns of one program of an elementwise kernel


def stored(dtype: str) -> torch.dtype:
    return layout.DTYPES[values.stored(dtype)]


@dataclass(eq=False)
class Buffer:
    """users: values that live in it. The rows of its trunk are tokens, in the head they are logit rows."""

    tensor: Tensor
    kind: tuple[bool, int, torch.dtype]
    users: int = 0


@dataclass(frozen=True)
class Pass:
    """A lowered model. trunk: up to the last attention; head: from the gathered logit rows on, to `logits`. hidden: its
    input as f32, made where it is asked for."""

    trunk: list[Op]
    head: list[Op]
    make_hidden: list[Op]
    logits: Tensor  # [head rows, V]
    hidden: Tensor  # [head rows, K]
    scratch: int  # bytes


class Lowering:
    def __init__(
        self,
        trace: Trace,
        weights: Weights,
        pool: KvPool,
        steps: Steps,
        max_tokens: int,
        head_rows: int,
        context: int,
        ranks: Ranks | None = None,
    ):
        self.trace, self.weights, self.pool, self.steps = trace, weights, pool, steps
        self.device = weights.device
        self.heights = {False: max_tokens, True: head_rows}
        self.context, self.ranks = context, ranks
        self.trunk: list[Op] = []
        self.head: list[Op] = []
        self.hidden: list[Op] = []
        self.hidden_tensor = self.scores = torch.empty(0)
        self.in_head = False
        self.places: dict[Value, Tensor] = {}  # [height, width], maybe columns of a wider buffer
        self.owners: dict[Value, Buffer] = {}
        self.free: dict[tuple[bool, int, torch.dtype], list[Buffer]] = defaultdict(list)
        self.scratch = 0
        self.dtypes = {value: layout.DTYPES[type] for value, type in values.types(trace).items()}
        self.factors: dict[Value, float] = {}  # value -> what it is stored times
        self.constants: dict[Weight, Tensor] = {}
        self.angles: dict[Rope, Tensor] = {}
        self.parts: attention.Parts | None = None
        self.last_linear = next(node.x for node in trace.nodes if isinstance(node, Logits))
        self.emitters: dict[type, Callable[[Any], None]] = {
            Embed: self.embed,
            Norm: self.norm,
            Linear: self.linear,
            SelfAttention: self.attention,
            Add: self.add,
            Gated: self.gated,
            Gather: self.gather,
            LogitRows: self.logit_rows,
            Logits: self.logits,
        }

    def run(self) -> Pass:
        for node, done in zip(self.trace.nodes, last_reads(self.trace), strict=True):
            self.in_head = self.in_head or isinstance(node, LogitRows)
            for out, into in writes(node):
                if into is not None:
                    self._own(out, self.owners[into], self.places[into])
            self.emitters[type(node)](node)
            for value in done:
                self._release(value)
        return Pass(self.trunk, self.head, self.hidden, self.scores, self.hidden_tensor, self.scratch)

    # -------------------------------------------------------------- buffers

    def _buffer(self, width: int, dtype: torch.dtype = torch.float32) -> Buffer:
        kind = (self.in_head, width, dtype)
        if self.free[kind]:
            return self.free[kind].pop()
        tensor = torch.zeros(self.heights[self.in_head], values.aligned(width), dtype=dtype, device=self.device)
        self.scratch += tensor.nbytes
        return Buffer(tensor[:, :width], kind)

    def _own(self, value: Value, buffer: Buffer, place: Tensor) -> None:
        buffer.users += 1
        self.owners[value], self.places[value] = buffer, place

    def _release(self, value: Value) -> None:
        buffer = self.owners.pop(value)
        buffer.users -= 1
        if not buffer.users:
            self.free[buffer.kind].append(buffer)

    def _new(self, value: Value) -> Tensor:
        buffer = self._buffer(self.trace.widths[value], self.dtypes.get(value, torch.float32))
        self._own(value, buffer, buffer.tensor)
        return buffer.tensor

    def _emit(self, op: Op) -> None:
        (self.head if self.in_head else self.trunk).append(op)

    def _rows(self) -> Callable[[Fields], int]:
        return (lambda f: len(f.logit_rows)) if self.in_head else (lambda f: f.tokens)

    def _constant(self, weight: Weight) -> Tensor:
        if weight not in self.constants:
            self.constants[weight] = layout.constant(weight, self.device)
        return self.constants[weight]

    # -------------------------------------------------------------- operations

    def _gather(
        self,
        out: Tensor,
        x: Tensor,
        index: Callable[[Fields], Tensor | None] = lambda f: None,
        chosen: Callable[[Fields], Tensor | None] = lambda f: None,
        scale: float = 1.0,
    ) -> Op:
        rows, width = self._rows(), out.shape[1]

        def op(f: Fields) -> list[Launch]:
            n, each = rows(f), rows_at_once(rows(f), 16)
            arguments = (out, x, index(f), chosen(f), scale, n, width, x.stride(0), out.stride(0))
            grid = (-(-n // each), -(-width // BLOCK))
            return [Launch(embed.gather, grid, arguments, {"BLOCK": BLOCK, "ROWS": each})]

        return op

    def embed(self, node: Embed) -> None:
        out, table = self._new(node.out), self.weights.matrices[(node.table,)]
        if table.encoding is None:
            self._emit(self._gather(out, table.data, lambda f: f.token_ids, lambda f: f.previous, node.scale))
            return
        columns = padded(table.columns)

        def op(f: Fields) -> list[Launch]:
            each = rows_at_once(f.tokens, 16)
            arguments = (out, f.token_ids, f.previous, table.data, self.weights.levels, node.scale, f.tokens,
                         table.columns, out.stride(0))  # fmt: skip
            constants = {"COLUMNS": columns, "FORMAT": table.encoding, "ROWS": each}
            return [Launch(embed.embed, (-(-f.tokens // each), columns // 256), arguments, constants)]

        self._emit(op)

    def norm(self, node: Norm) -> None:
        width = self.trace.widths[node.x]
        assert node.weight.shape == (width,), "norms of single heads belong to attention"
        out = self.places[node.out] if node.into is not None else self._new(node.out)
        self._emit(self._norm(node, self.places[node.x], out, node.into is not None))

    def _norm(self, node: Norm, x: Tensor, out: Tensor, into: bool = False) -> Op:
        rows, width, weight = self._rows(), x.shape[1], self._constant(node.weight)
        block = 1 << (width - 1).bit_length()

        def op(f: Fields) -> list[Launch]:
            n, each = rows(f), rows_at_once(rows(f), 16)
            arguments = (out, x, weight, node.eps, n, x.stride(0), out.stride(0))
            constants = {"W": width, "BLOCK": block, "ROWS": each, "INTO": into}
            return [Launch(elementwise.norm, (-(-n // each),), arguments, constants)]

        return op

    def linear(self, node: Linear) -> None:
        """Normalises or converts the input once for each operand type that the weights need."""
        operands: dict[torch.dtype, Buffer] = {}
        x = self.places[node.x]
        for group in by_type(node.matmuls):
            dtype = stored(values.operand(group[0].weight.type))
            source = x
            if node.norm is not None or x.dtype != dtype:
                if dtype not in operands:
                    operands[dtype] = self._buffer(x.shape[1], dtype)
                    out = operands[dtype].tensor
                    plain = self._gather(out, x)
                    self._emit(plain if node.norm is None else self._norm(node.norm, x, out))
                source = operands[dtype].tensor
            self._group(node, group, source)
        for buffer in operands.values():
            self.free[buffer.kind].append(buffer)
        if any(matmul.out == self.last_linear for matmul in node.matmuls):
            self._hidden(node, x)

    def _hidden(self, node: Linear, x: Tensor) -> None:
        self.hidden_tensor = torch.zeros(self.heights[True], x.shape[1], device=self.device)
        self.scratch += self.hidden_tensor.nbytes
        plain = self._gather(self.hidden_tensor, x)
        self.hidden.append(plain if node.norm is None else self._norm(node.norm, x, self.hidden_tensor))

    def _group(self, node: Linear, group: list[MatMul], x: Tensor) -> None:
        """One launch, whose columns are the group's values one after the other; a gate and its up need a second."""
        first, matrix = group[0], self.weights.matrices[key(group)]
        factor = 1 / self.factors.get(node.x, 1.0)
        if first.into is not None:
            self._emit(self._matmul(self.places[first.out], x, matrix, self._bias(group), factor, True))
            return
        buffer = self._buffer(matrix.rows)
        self._emit(self._matmul(buffer.tensor, x, matrix, self._bias(group), factor, False))
        if first.up is not None:
            half = matrix.rows // 2
            self._gate(first.out, buffer.tensor[:, :half], buffer.tensor[:, half:], first.activation)
            self.free[buffer.kind].append(buffer)
            return
        at = 0
        for m in group:
            self._own(m.out, buffer, buffer.tensor[:, at : at + m.weight.shape[0]])
            at += m.weight.shape[0]

    def _bias(self, group: list[MatMul]) -> Tensor | None:
        if all(m.bias is None for m in group):
            return None
        parts = [
            torch.zeros(m.weight.shape[0], device=self.device) if m.bias is None else self._constant(m.bias)
            for m in group
        ]
        return torch.cat(parts)

    def _matmul(self, out: Tensor, x: Tensor, w: Matrix, bias: Tensor | None, factor: float, into: bool) -> Op:
        rows = self._rows()
        return lambda f: [matmul_launch(out, x, w, self.weights.levels, bias, factor, into, rows(f))]

    def gated(self, node: Gated) -> None:
        self._gate(node.out, self.places[node.gate], self.places[node.up], node.activation)

    def _gate(self, value: Value, gate: Tensor, up: Tensor, activation: str) -> None:
        out, rows = self._new(value), self._rows()
        self.factors[value] = factor = ROOM if out.dtype == torch.float16 else 1.0
        width = out.shape[1]

        def op(f: Fields) -> list[Launch]:
            n, each = rows(f), rows_at_once(rows(f), 16)
            arguments = (out, gate, up, factor, n, width, gate.stride(0), up.stride(0), out.stride(0))
            constants = {"SILU": activation == "silu", "BLOCK": BLOCK, "ROWS": each}
            return [Launch(elementwise.gated, (-(-n // each), -(-width // BLOCK)), arguments, constants)]

        self._emit(op)

    def gather(self, node: Gather) -> None:
        assert self.ranks is not None, "only a shard gathers"
        x, out, rows, ranks = self.places[node.x], self._new(node.out), self._rows(), self.ranks
        self.factors[node.out] = self.factors.get(node.x, 1.0)
        self._emit(lambda f: [gathering(ranks, out[: rows(f)], x[: rows(f)])])

    def add(self, node: Add) -> None:
        y, x, rows = self.places[node.y], self.places[node.x], self._rows()

        def op(f: Fields) -> list[Launch]:
            n, each = rows(f), rows_at_once(rows(f), 16)
            arguments = (y, x, n, x.shape[1], y.stride(0), x.stride(0))
            grid = (-(-n // each), -(-x.shape[1] // BLOCK))
            return [Launch(elementwise.add, grid, arguments, {"BLOCK": BLOCK, "ROWS": each})]

        self._emit(op)

    def attention(self, node: SelfAttention) -> None:
        q, k, v = (self.places[value] for value in (node.q, node.k, node.v))
        norms = [None if norm is None else self._constant(norm.weight) for norm in (node.q_norm, node.k_norm)]
        if self.parts is None:
            self.parts = attention.Parts(self.steps, self.pool, self.device)
            self.scratch += self.parts.nbytes
        prepared = self._buffer(node.spec.heads * node.spec.head_dim, stored(values.kv_operand(self.pool.dtype)))
        self._emit(attention.heads(node, self.pool, prepared.tensor, (q, k, v), norms, self._angles(node.rope)))
        out = self._new(node.out)
        self._emit(attention.attend(node, self.parts, prepared.tensor, out))
        self.free[prepared.kind].append(prepared)

    def _angles(self, rope: Rope | None) -> Tensor | None:
        """f32 [context, dim]: the cosines of each position, then its sines, as the reference computes them."""
        if rope is None:
            return None
        if rope not in self.angles:
            angles = np.multiply.outer(np.arange(self.context, dtype=np.float64), rope.inv_freq.astype(np.float64))
            both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * rope.scale
            self.angles[rope] = torch.from_numpy(both.astype(np.float32)).to(self.device)
            self.scratch += self.angles[rope].nbytes
        return self.angles[rope]

    def logit_rows(self, node: LogitRows) -> None:
        x = self.places[node.x]
        self._emit(self._gather(self._new(node.out), x, lambda f: f.logit_rows))

    def logits(self, node: Logits) -> None:
        self.scores, rows = self.places[node.x], self._rows()
        if not node.softcap:
            return
        x = self.scores

        def op(f: Fields) -> list[Launch]:
            n, each = rows(f), rows_at_once(rows(f), 16)
            arguments = (x, node.softcap, n, x.shape[1], x.stride(0))
            grid = (-(-n // each), -(-x.shape[1] // BLOCK))
            return [Launch(elementwise.soft_cap, grid, arguments, {"BLOCK": BLOCK, "ROWS": each})]

        self._emit(op)


def matmul_launch(
    out: Tensor, x: Tensor, w: Matrix, levels: Tensor, bias: Tensor | None, factor: float, into: bool, rows: int
) -> Launch:
    """out = factor * x w^T + bias for the first `rows` rows of x and out; `into`: added to what out holds."""
    tile = matmul_tile(rows, w.encoding is not None, x.dtype == torch.float32)
    sizes: dict[str, Any] = {} if INTERPRETED else {"num_warps": tile.warps, "num_stages": tile.stages}
    sizes |= {"BN": tile.bn, "BM": tile.bm, "INTO": into}
    tiles = (-(-w.rows // tile.bn), -(-rows // tile.bm))
    arguments: tuple[Any, ...]
    if w.encoding is not None:
        columns = padded(w.columns)
        sizes |= {"COLUMNS": columns, "CHUNK": chunk_columns(columns), "FORMAT": w.encoding}
        strides = (x.stride(0), out.stride(0))
        arguments = (out, x, w.data, levels, bias, factor, rows, w.rows, w.columns, *strides)
        return Launch(matmul.quantised, tiles, arguments, sizes, f"{w.type} {w.rows} x {w.columns}")
    xd = TensorDescriptor(x, [rows, w.columns], list(x.stride()), [tile.bm, tile.bk])
    wd = TensorDescriptor(w.data, [w.rows, w.columns], list(w.data.stride()), [tile.bn, tile.bk])
    sizes |= {"BK": tile.bk, "LEFT": tile.left, "BAND": 8}
    arguments = (out, xd, wd, bias, factor, rows, w.rows, w.columns, out.stride(0))
    return Launch(matmul.dense, (tiles[0] * tiles[1],), arguments, sizes, f"{w.type} {w.rows} x {w.columns}")
