"""Lowering: fused records to the native step plan.

Gives values buffers, which are used again once their last reader is done, and emits the operations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from octavo import _native
from octavo.backends.cpu.records import (
    Add,
    Attend,
    Embed,
    Gated,
    Linear,
    LogitRows,
    Logits,
    Norm,
    Product,
    Record,
    Recording,
    Value,
    reads,
    writes,
)
from octavo.ir import Rope, Weight
from octavo.weights.dequantize import dequantize

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


def lower(recording: Recording, plan: Any, packed: dict[Weight, Any]) -> None:
    """Fills `plan` (a fresh _native.Plan) with the recording's operations over the packed weights."""
    Lowering(recording, plan, packed).run()


class Lowering:
    """The tables that emission needs: which buffer holds a value, and ids of what the plan already has."""

    def __init__(self, recording: Recording, plan: Any, packed: dict[Weight, Any]):
        self.recording = recording
        self.plan = plan
        self.packed = packed
        self.buffers: dict[Value, int] = {}
        self.free: dict[tuple[bool, int], list[int]] = defaultdict(list)  # (in the head, width) -> buffers
        self.kinds: dict[int, tuple[bool, int]] = {}  # buffer -> its key in `free`
        self.in_head = False
        self.scores = next(record.x for record in recording.records if isinstance(record, Logits))
        self.weights: dict[Weight, int] = {}
        self.constants: dict[Weight, int] = {}
        self.acts: dict[tuple[bool, int, int, int], int] = {}
        self.angles: dict[Rope, int] = {}
        self.emitters: dict[type, Callable[[Any], None]] = {
            Embed: self.embed,
            Norm: self.norm,
            Linear: self.linear,
            Attend: self.attend,
            Add: self.add,
            Gated: self.gated,
            LogitRows: self.logit_rows,
            Logits: self.logits,
        }

    def run(self) -> None:
        records = self.recording.records
        last = {value: i for i, record in enumerate(records) for value in reads(record)}
        for i, record in enumerate(records):
            for out, into in writes(record):
                if into is not None:
                    self.buffers[out] = self.buffers[into]
                elif not isinstance(record, LogitRows):
                    self.buffers[out] = self._buffer(self.recording.widths[out])
            self.emitters[type(record)](record)
            self._release(record, i, last)

    def _release(self, record: Record, i: int, last: dict[Value, int]) -> None:
        taken = {into for _, into in writes(record)}
        for value in set(reads(record)):
            if last[value] == i and value not in taken:
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

    def _angles(self, rope: Rope) -> int:
        """The buffer of the step's cosines and sines: made once a step, before the first layer that wants them."""
        if rope not in self.angles:
            out = self.plan.buffer(2 * len(rope.inv_freq))
            self.plan.rope_angles(self.plan.constant(np.ascontiguousarray(rope.inv_freq, np.float32)), rope.scale, out)
            self.angles[rope] = out
        return self.angles[rope]

    def embed(self, r: Embed) -> None:
        self.plan.embed(self._weight(r.table), self.buffers[r.out], r.scale)

    def norm(self, r: Norm) -> None:
        width = self.recording.widths[r.x]
        self.plan.rms_norm(
            self.buffers[r.x], width, self._constant(r.weight), r.eps, self.buffers[r.out], r.into is not None
        )

    def linear(self, r: Linear) -> None:
        """Quantises the input once for each kind of activation that the products' formats ask for."""
        groups: dict[int, list[Product]] = defaultdict(list)  # k of an activation scale (0: dense) -> products
        for product in r.products:
            group, _ = _native.act_spec(product.weight.type)
            groups[group].append(product)
        x, norm = self.buffers[r.x], r.norm
        if norm and any(product.out == self.scores for product in r.products):
            self.plan.hidden(x, self._constant(norm.weight), norm.eps)
        if norm and 0 in groups:  # dense products want the normalised floats themselves
            width = self.recording.widths[r.x]
            x = self._buffer(width)
            self.plan.rms_norm(self.buffers[r.x], width, self._constant(norm.weight), norm.eps, x, False)
            self._give_back(x)
            norm = None
        for group, products in groups.items():
            segments = [self._segment(product) for product in products]
            if group == 0:
                self.plan.linear_dense(x, segments)
                continue
            act = self._act(products, group)
            weight, eps = (self._constant(norm.weight), norm.eps) if norm else (-1, 0.0)
            self.plan.linear(x, act, weight, eps, segments)

    def _act(self, products: list[Product], group: int) -> int:
        sides = 0
        for product in products:
            for weight in (product.weight, product.up):
                if weight:
                    sides |= _native.act_spec(weight.type)[1]
        key = (self.in_head, products[0].weight.shape[1], group, sides)
        if key not in self.acts:
            self.acts[key] = self.plan.act(*key[1:])
        return self.acts[key]

    def _segment(self, p: Product) -> tuple[int, int, int, int, int, bool]:
        up = self._weight(p.up) if p.up else -1
        activation = ACTIVATIONS[p.activation] if p.up else 0
        return (self._weight(p.weight), up, activation, self._constant(p.bias), self.buffers[p.out], p.into is not None)

    def attend(self, r: Attend) -> None:
        q, k, v, spec = self.buffers[r.q], self.buffers[r.k], self.buffers[r.v], r.spec
        angles = self._angles(r.rope) if r.rope else -1
        rope_dim = 2 * len(r.rope.inv_freq) if r.rope else 0
        norms = (
            (self._constant(r.q_norm.weight), self._constant(r.k_norm.weight)) if r.q_norm and r.k_norm else (-1, -1)
        )
        eps = r.q_norm.eps if r.q_norm else 0.0
        interleaved = bool(r.rope and r.rope.interleaved)
        self.plan.qkv(q, k, v, spec.heads, r.layer, *norms, eps, angles, rope_dim, interleaved)
        geometry = (spec.heads, spec.kv_heads, spec.head_dim, spec.window, spec.scale, spec.softcap)
        self.plan.attention(q, self.buffers[r.out], r.layer, *geometry)

    def add(self, r: Add) -> None:
        self.plan.add(self.buffers[r.x], self.buffers[r.y])

    def gated(self, r: Gated) -> None:
        self.plan.gated(self.buffers[r.gate], self.buffers[r.up], ACTIVATIONS[r.activation], self.buffers[r.out])

    def logit_rows(self, r: LogitRows) -> None:
        self.in_head = True
        self.buffers[r.out] = self.plan.logit_rows(self.buffers[r.x])

    def logits(self, r: Logits) -> None:
        self.plan.logits(self.buffers[r.x], self.recording.widths[r.x], r.softcap)
