"""Key offsets: what the keys of a k projection with a bias share (native/kernels/rotation.inc says what for)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.backends.plan.fuse import prepare_heads
from octavo.backends.plan.nodes import Linear, SelfAttention
from octavo.backends.plan.trace import trace
from octavo.ir import Model, Rope, Weight

POSITIONS = 16  # that share an offset; kOffsetKeys in native/kernels/kernels.h


class KeyOffset(NamedTuple):
    """A key at position p is cached less RoPE(bias) at the middle of its POSITIONS positions."""

    bias: Weight  # [kv_heads * head_dim]
    rope: Rope


def middle(positions: NDArray[np.int32]) -> NDArray[np.int32]:
    """The positions at whose angles keys' offsets are taken."""
    return positions // np.int32(POSITIONS) * np.int32(POSITIONS) + np.int32(POSITIONS // 2)


def key_offsets(model: Model) -> dict[int, KeyOffset]:
    """The offset of each layer whose keys are linear(x) + bias, then rope. A norm between the two leaves none."""
    nodes = prepare_heads(traced := trace(model))
    biases = {m.out: m.bias for node in traced.nodes if isinstance(node, Linear) for m in node.matmuls}
    found: dict[int, KeyOffset] = {}
    for node in nodes:
        if not isinstance(node, SelfAttention) or node.rope is None or node.k_norm is not None:
            continue
        if (bias := biases.get(node.k)) is not None:
            found[node.layer] = KeyOffset(bias, node.rope)
    return found
