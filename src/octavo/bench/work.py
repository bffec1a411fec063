"""Counts a workload's operations and bytes, and compares measured speeds with the machine's limits.

A multiply-add counts as two operations. A token's matmuls take 2 operations per weight. Attention takes 2 operations
per visible position, head and dimension for q . k, and as many for the weighted sum of v. Bytes are the minimum that a
decode step must read: every weight once, whatever the batch, and the keys and values of each sequence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from octavo.backends.cpu.packing import packed_bytes
from octavo.backends.plan.nodes import Linear, LogitRows
from octavo.backends.plan.trace import trace
from octavo.bench.limits import Limits
from octavo.ir import Attention, Model
from octavo.kv.planner import token_bytes

DENSE = ("F32", "F16", "BF16")  # types that the backend multiplies as floats
STEP_TOKENS = 512  # default token budget of a step


@dataclass(frozen=True)
class Work:
    """Number of matmul weights by the kind of instruction that multiplies them ("int8", "f32").

    trunk: weights that every token uses. head: weights that only rows with wanted logits use.
    weight_bytes: packed size of all of them.
    """

    trunk: Counter[str]
    head: Counter[str]
    weight_bytes: int
    layers: tuple[Attention, ...]
    kv_dtype: str

    def prefill(self, batch: int, length: int) -> Counter[str]:
        """Operations to prefill `batch` prompts of `length` tokens and to get their first tokens."""
        seen = sum(_seen(layer, length) * layer.heads * (layer.head_dim + layer.value_dim) for layer in self.layers)
        return _scaled(self.trunk, 2 * length * batch, self.head, 2 * batch) + Counter({"int8": 2 * batch * seen})

    def decode(self, batch: int, context: float) -> Counter[str]:
        """Operations of a decode step with `batch` sequences of `context` tokens."""
        seen = sum(_window(layer, context) * layer.heads * (layer.head_dim + layer.value_dim) for layer in self.layers)
        return _scaled(self.trunk, 2 * batch, self.head, 2 * batch) + Counter({"int8": round(2 * batch * seen)})

    def decode_bytes(self, batch: int, context: float) -> float:
        kv = sum(_window(layer, context) * token_bytes([layer], self.kv_dtype) for layer in self.layers)
        return self.weight_bytes + batch * kv


def work_of(model: Model, kv_dtype: str) -> Work:
    """Counts the work of the CPU backend's pass over the model."""
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    part, weights = 0, {}
    for node in trace(model).nodes:
        if isinstance(node, LogitRows):
            part = 1
        elif isinstance(node, Linear):
            for weight in (matmul.weight for matmul in node.matmuls):
                counts[part]["f32" if weight.type in DENSE else "int8"] += prod(weight.shape)
                weights[weight] = packed_bytes(weight)
    return Work(*counts, sum(weights.values()), model.attention, kv_dtype)


def fractions(row: dict[str, Any], work: Work, limits: Limits) -> dict[str, float]:
    """Compares the speeds of one measured row with the machine's limits.

    ops_fraction: prefill operations over the peak. bandwidth_fraction: decode bytes over the memory bandwidth.
    decode_ops_fraction: decode operations over the peak, the limit of large batches.
    """
    batch, length = row["batch"], row["prompt_tokens"]
    context, steps = length + row["gen_tokens"] / 2, (row["decode_tok_s"] or 0.0) / batch  # steps a second
    made = {
        "ops_fraction": limits.seconds(work.prefill(batch, length)) * row["prefill_tok_s"] / (batch * length),
        "bandwidth_fraction": work.decode_bytes(batch, context) * steps / limits.bandwidth,
        "decode_ops_fraction": limits.seconds(work.decode(batch, context)) * steps,
    }
    return {name: round(value, 3) for name, value in made.items()}


def _seen(layer: Attention, length: int) -> int:
    """Sum over a prompt's tokens of the positions each attends to: 1 + 2 + ... + length, each at most the window."""
    window = min(layer.window or length, length)
    return window * (window + 1) // 2 + (length - window) * window


def _window(layer: Attention, context: float) -> float:
    return min(context, layer.window or context)


def _scaled(a: Counter[str], times_a: int, b: Counter[str], times_b: int) -> Counter[str]:
    return Counter({kind: a[kind] * times_a + b[kind] * times_b for kind in a.keys() | b.keys()})


def points(row: dict[str, Any], work: Work) -> list[dict[str, Any]]:
    """Returns a row's points on a roofline plot (fields of `octavo.bench.roofline.Point`), for prefill and decode."""
    batch, length = row["batch"], row["prompt_tokens"]
    context, steps = length + row["gen_tokens"] / 2, (row["decode_tok_s"] or 0.0) / batch  # steps a second
    chunks = -(-batch * length // STEP_TOKENS)  # the weights are read once per step
    prefill, decode = sum(work.prefill(batch, length).values()), sum(work.decode(batch, context).values())
    made = [
        _point(
            f"prefill {batch} x {length}", prefill, chunks * work.weight_bytes, row["prefill_tok_s"] / batch / length
        )
    ]
    if steps:
        made.append(_point(f"decode B={batch}, {length}", decode, work.decode_bytes(batch, context), steps))
    return made


def _point(name: str, operations: float, read: float, times: float) -> dict[str, Any]:
    """times: executions per second."""
    return {"name": name, "intensity": round(operations / read, 3), "gops": round(operations * times / 1e9, 2)}
