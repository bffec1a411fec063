"""What a workload asks of the machine: operations, and bytes that must be read. Fractions of its limits follow.

Operations count both halves of a multiply-add. A token's products take 2 for each weight of the matrices it passes;
attention takes 2 for each position seen, head and dim of q . k, and as many for the weighted sum of v. Bytes are what
a decode step cannot do without: every weight once, whatever the batch, and each sequence's keys and values.
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

DENSE = ("F32", "F16", "BF16")  # multiplied as floats
STEP_TOKENS = 512  # of a step, by default


@dataclass(frozen=True)
class Work:
    """Weights of the products by the kind of limit that binds them ("int8", "f32").

    trunk: of the matrices that every token passes; head: of those that only rows whose logits are wanted do.
    weight_bytes: of all of them, packed.
    """

    trunk: Counter[str]
    head: Counter[str]
    weight_bytes: int
    layers: tuple[Attention, ...]
    kv_dtype: str

    def prefill(self, batch: int, length: int) -> Counter[str]:
        """Operations of `batch` prompts of `length` tokens, each of which gets its first token."""
        seen = sum(_seen(layer, length) * layer.heads * (layer.head_dim + layer.value_dim) for layer in self.layers)
        return _scaled(self.trunk, 2 * length * batch, self.head, 2 * batch) + Counter({"int8": 2 * batch * seen})

    def decode(self, batch: int, context: float) -> Counter[str]:
        """Operations of a step that adds a token to `batch` sequences of `context` tokens."""
        seen = sum(_window(layer, context) * layer.heads * (layer.head_dim + layer.value_dim) for layer in self.layers)
        return _scaled(self.trunk, 2 * batch, self.head, 2 * batch) + Counter({"int8": round(2 * batch * seen)})

    def decode_bytes(self, batch: int, context: float) -> float:
        kv = sum(_window(layer, context) * token_bytes([layer], self.kv_dtype) for layer in self.layers)
        return self.weight_bytes + batch * kv


def work_of(model: Model, kv_dtype: str) -> Work:
    """Of the CPU backend's pass over the model."""
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
    """Of a row of the workload. ops_fraction: prefill's operations over the peak; bandwidth_fraction: decode's bytes
    over the memory's bandwidth; decode_ops_fraction: decode's operations over the peak, which binds large batches.
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
    """Positions that the tokens of a prompt see, all together: 1 + 2 + ... + length, or up to the window each."""
    window = min(layer.window or length, length)
    return window * (window + 1) // 2 + (length - window) * window


def _window(layer: Attention, context: float) -> float:
    return min(context, layer.window or context)


def _scaled(a: Counter[str], times_a: int, b: Counter[str], times_b: int) -> Counter[str]:
    return Counter({kind: a[kind] * times_a + b[kind] * times_b for kind in a.keys() | b.keys()})


def points(row: dict[str, Any], work: Work) -> list[dict[str, Any]]:
    """Where a row lies on a roofline plot: `octavo.bench.roofline.Point`s as plain values, for prefill and decode."""
    batch, length = row["batch"], row["prompt_tokens"]
    context, steps = length + row["gen_tokens"] / 2, (row["decode_tok_s"] or 0.0) / batch  # steps a second
    chunks = -(-batch * length // STEP_TOKENS)  # the weights are read once a step
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
    """times: a second."""
    return {"name": name, "intensity": round(operations / read, 3), "gops": round(operations * times / 1e9, 2)}
