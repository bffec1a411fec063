"""Lowering: a fused trace to the native step plan.

Assigns buffers to values, reuses each after its value's last reader, and emits the operations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from octavo import _native
from octavo.backends.plan.fuse import fuse
from octavo.backends.plan.key_offsets import KeyOffset, key_offsets
from octavo.backends.plan.nodes import (
    Add,
    Embed,
    Gated,
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
from octavo.backends.plan.trace import trace
from octavo.errors import ModelFileError
from octavo.ir import Model, Rope, Weight
from octavo.weights.dequantize import dequantize

KV_DTYPES = {"f32": 0, "bf16": 1, "int8": 2, "k8v4": 3}  # KvType in native/kernels/kernels.h
QUANTISED = frozenset({"int8", "k8v4"})
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


def fused(model: Model) -> Trace:
    """The model's forward pass as the native plan runs it."""
    return fuse(trace(model), same_activations)


def same_activations(gate: Weight, up: Weight) -> bool:
    """Whether two weights use the same activation group size, so that one matmul can serve both."""
    return _native.act_spec(gate.type)[0] == _native.act_spec(up.type)[0]


def cache_layers(model: Model) -> list[tuple[int, int]]:
    """(kv_heads, head_dim) of each layer, for `_native.KvCache`. Raises ModelFileError for heads it cannot hold."""
    for spec in model.attention:
        if spec.value_dim != spec.head_dim:
            what, taken = f"keys of {spec.head_dim} and values of {spec.value_dim} dimensions", "equal ones"
        elif spec.head_dim % 16 or spec.head_dim > 512:
            what, taken = f"heads of {spec.head_dim} dimensions", "multiples of 16 up to 512"
        else:
            continue
        raise ModelFileError(f"{what}: the cpu backend takes {taken}; use backend='reference'")
    return [(spec.kv_heads, spec.head_dim) for spec in model.attention]


def offsets(model: Model, dtype: str) -> dict[int, KeyOffset]:
    """The key offsets of the layers, which only quantised caches need."""
    return key_offsets(model) if dtype in QUANTISED else {}


def lower(trace: Trace, plan: Any, packed: dict[Weight, Any], offsets: dict[int, KeyOffset]) -> None:
    """Fills `plan` (a fresh _native.Plan) with the trace's operations over the packed weights."""
    Lowering(trace, plan, packed, offsets).run()


class Lowering:
    """The state of lowering: the buffer of each value, and ids of objects already in the plan."""

    def __init__(self, trace: Trace, plan: Any, packed: dict[Weight, Any], offsets: dict[int, KeyOffset]):
        self.trace = trace
        self.plan = plan
        self.packed = packed
        self.offsets = offsets
        self.buffers: dict[Value, int] = {}
        self.free: dict[tuple[bool, int], list[int]] = defaultdict(list)  # (in the head, width) -> buffers
        self.kinds: dict[int, tuple[bool, int]] = {}  # buffer -> its key in `free`
        self.in_head = False
        self.scores = next(node.x for node in trace.nodes if isinstance(node, Logits))
        self.weights: dict[Weight, int] = {}
        self.constants: dict[Weight, int] = {}
        self.acts: dict[tuple[bool, int, int, int], int] = {}
        self.angles: dict[Rope, tuple[int, int]] = {}
        self.middles: dict[Rope, int] = {}
        self.emitters: dict[type, Callable[[Any], None]] = {
            Embed: self.embed,
            Norm: self.norm,
            Linear: self.linear,
            SelfAttention: self.attention,
            Add: self.add,
            Gated: self.gated,
            LogitRows: self.logit_rows,
            Logits: self.logits,
        }

    def run(self) -> None:
        for node, done in zip(self.trace.nodes, last_reads(self.trace), strict=True):
            for out, into in writes(node):
                if into is not None:
                    self.buffers[out] = self.buffers[into]
                elif not isinstance(node, LogitRows):
                    self.buffers[out] = self._buffer(self.trace.widths[out])
            self.emitters[type(node)](node)
            for value in done - {into for _, into in writes(node)}:
                self._give_back(self.buffers[value])

    def _buffer(self, width: int) -> int:
        key = (self.in_head, width)
        buffer: int = self.free[key].pop() if self.free[key] else self.plan.buffer(width)
        self.kinds[buffer] = key
        return buffer

    def _give_back(self, buffer: int) -> None:
        if buffer in self.kinds:
            self.free[self.kinds[buffer]].append(buffer)

    def _weight(self, weight: Weight) -> int:
        if weight not in self.weights:
            self.weights[weight] = self.plan.weight(self.packed[weight])
        return self.weights[weight]

    def _constant(self, weight: Weight | None) -> int:
        if weight is None:
            return -1
        if weight not in self.constants:
            self.constants[weight] = self.plan.constant(dequantize(weight).astype(np.float32).reshape(-1))
        return self.constants[weight]

    def _angles(self, rope: Rope) -> tuple[int, int]:
        """The buffers of the step's cosines and sines, at each token's position and at the one from which it sees
        sinks (`kv.eviction`). They are computed once a step, before the first layer that uses them."""
        if rope not in self.angles:
            out, far = (self.plan.buffer(2 * len(rope.inv_freq)) for _ in range(2))
            frequencies = self.plan.constant(np.ascontiguousarray(rope.inv_freq, np.float32))
            self.plan.rope_angles(frequencies, rope.scale, out, far)
            self.angles[rope] = out, far
        return self.angles[rope]

    def _offset(self, layer: int) -> tuple[int, int, int, bool]:
        """The plan's key offset: (bias, angles, rope_dim, interleaved)."""
        if layer not in self.offsets:
            return (-1, -1, 0, False)
        bias, rope = self.offsets[layer]
        if rope not in self.middles:
            frequencies = self.plan.constant(np.ascontiguousarray(rope.inv_freq, np.float32))
            self.middles[rope] = self.plan.middle_angles(frequencies, rope.scale)
        return (self._constant(bias), self.middles[rope], 2 * len(rope.inv_freq), rope.interleaved)

    def embed(self, node: Embed) -> None:
        self.plan.embed(self._weight(node.table), self.buffers[node.out], node.scale)

    def norm(self, node: Norm) -> None:
        x, out, width = self.buffers[node.x], self.buffers[node.out], self.trace.widths[node.x]
        assert node.weight.shape == (width,), "norms of single heads belong to attention"
        self.plan.rms_norm(x, width, self._constant(node.weight), node.eps, out, node.into is not None)

    def linear(self, node: Linear) -> None:
        """Quantises the input once for each activation group size that the weights' formats need."""
        groups: dict[int, list[MatMul]] = defaultdict(list)  # k of an activation scale (0: dense) -> matmuls
        for matmul in node.matmuls:
            group, _ = _native.act_spec(matmul.weight.type)
            groups[group].append(matmul)
        x, norm = self.buffers[node.x], node.norm
        if norm and any(matmul.out == self.scores for matmul in node.matmuls):
            self.plan.hidden(x, self._constant(norm.weight), norm.eps)
        if norm and 0 in groups:  # dense matmuls read the normalised floats
            width = self.trace.widths[node.x]
            x = self._buffer(width)
            self.plan.rms_norm(self.buffers[node.x], width, self._constant(norm.weight), norm.eps, x, False)
            self._give_back(x)
            norm = None
        for group, matmuls in groups.items():
            segments = [self._segment(matmul) for matmul in matmuls]
            if group == 0:
                self.plan.linear_dense(x, segments)
                continue
            act = self._act(matmuls, group)
            weight, eps = (self._constant(norm.weight), norm.eps) if norm else (-1, 0.0)
            self.plan.linear(x, act, weight, eps, segments)

    def _act(self, matmuls: list[MatMul], group: int) -> int:
        sides = 0
        for matmul in matmuls:
            for weight in (matmul.weight, matmul.up):
                if weight:
                    sides |= _native.act_spec(weight.type)[1]
        key = (self.in_head, matmuls[0].weight.shape[1], group, sides)
        if key not in self.acts:
            self.acts[key] = self.plan.act(*key[1:])
        return self.acts[key]

    def _segment(self, m: MatMul) -> tuple[int, int, int, int, int, bool]:
        up = self._weight(m.up) if m.up else -1
        activation = ACTIVATIONS[m.activation] if m.up else 0
        return (self._weight(m.weight), up, activation, self._constant(m.bias), self.buffers[m.out], m.into is not None)

    def attention(self, node: SelfAttention) -> None:
        q, k, v, spec = self.buffers[node.q], self.buffers[node.k], self.buffers[node.v], node.spec
        angles, far_angles = self._angles(node.rope) if node.rope else (-1, -1)
        far = -1 if spec.window else self._buffer(self.trace.widths[node.q])  # a layer with a window sees no sinks
        rope_dim = 2 * len(node.rope.inv_freq) if node.rope else 0
        norms = [self._constant(norm.weight if norm else None) for norm in (node.q_norm, node.k_norm)]
        eps = node.q_norm.eps if node.q_norm else 0.0
        interleaved = bool(node.rope and node.rope.interleaved)
        offset = self._offset(node.layer)
        places = (angles, rope_dim, interleaved, offset, far, far_angles)
        self.plan.qkv(q, k, v, spec.heads, node.layer, *norms, eps, *places)
        geometry = (spec.heads, spec.kv_heads, spec.head_dim, spec.window, spec.scale, spec.softcap)
        self.plan.attention(q, far, self.buffers[node.out], node.layer, *geometry, offset)
        self._give_back(far)

    def add(self, node: Add) -> None:
        self.plan.add(self.buffers[node.x], self.buffers[node.y])

    def gated(self, node: Gated) -> None:
        gate, up, out = self.buffers[node.gate], self.buffers[node.up], self.buffers[node.out]
        self.plan.gated(gate, up, ACTIVATIONS[node.activation], out)

    def logit_rows(self, node: LogitRows) -> None:
        self.in_head = True
        self.buffers[node.out] = self.plan.logit_rows(self.buffers[node.x])

    def logits(self, node: Logits) -> None:
        self.plan.logits(self.buffers[node.x], self.trace.widths[node.x], node.softcap)
