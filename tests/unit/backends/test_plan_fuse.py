"""The operations of a forward pass that are left after the fusion passes, on any device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octavo.backends.plan.fuse import fuse
from octavo.backends.plan.nodes import (
    Add,
    Embed,
    Gated,
    Linear,
    LogitRows,
    Logits,
    Node,
    Norm,
    Rotate,
    SelfAttention,
    Trace,
    reads,
    writes,
)
from octavo.backends.plan.trace import Recorder, trace
from octavo.ir import Attention, Model, Rope, Weight
from octavo.models.registry import load_model
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf

SPEC = Attention(heads=2, kv_heads=1, head_dim=8, scale=1.0)


def always(gate: Weight, up: Weight) -> bool:
    return True


def vector(size: int) -> Weight:
    return Weight("norm", (size,), "F32", np.zeros(4 * size, np.uint8))


def matrix(rows: int, columns: int = 16) -> Weight:
    return Weight("matrix", (rows, columns), "F32", np.zeros(4 * rows * columns, np.uint8))


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny(request.param)))


def test_after_the_last_attention_only_wanted_rows_go_on(model: Model) -> None:
    kinds = [type(node) for node in fuse(trace(model), always).nodes]
    last = max(i for i, kind in enumerate(kinds) if kind is SelfAttention)
    gathered = [i for i, kind in enumerate(kinds) if kind is LogitRows]
    assert gathered == [last + 1, last + 2], "what attention gave, and what it is added to"


def test_every_value_is_made_before_it_is_read(model: Model) -> None:
    for found in (trace(model), fuse(trace(model), always)):
        made: set[int] = set()
        for node in found.nodes:
            assert set(reads(node)) <= made
            made |= {value for value, _ in writes(node)}


def test_what_is_left_of_a_decoder_layer(tmp_path: Path) -> None:
    found = fuse(trace(load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny("qwen3")))), always).nodes
    first: list[type[Node]] = [Linear, SelfAttention]
    rest: list[type[Node]] = [Linear, Linear, Linear]
    gathered = [LogitRows, LogitRows]
    assert [type(node) for node in found] == [Embed, *first, *rest, *first, *gathered, *rest, Linear, Logits]
    qkv, attention, output, gate_up, down = found[1:6]
    assert isinstance(qkv, Linear) and qkv.norm and len(qkv.matmuls) == 3
    assert isinstance(attention, SelfAttention) and attention.rope and attention.q_norm and attention.k_norm
    assert isinstance(output, Linear) and output.matmuls[0].into == 0 and output.norm is None
    assert isinstance(gate_up, Linear) and gate_up.norm and gate_up.matmuls[0].up
    assert isinstance(down, Linear) and down.matmuls[0].into is not None


def test_the_device_says_which_weights_one_matmul_can_have(model: Model) -> None:
    apart = fuse(trace(model), lambda gate, up: False).nodes
    assert sum(isinstance(node, Gated) for node in apart) == model.num_layers
    assert not any(isinstance(node, Gated) for node in fuse(trace(model), always).nodes)


def heads(prepare: Callable[[Recorder, int, int], tuple[int, int]]) -> Trace:
    """Attention over q and k that `prepare` computes from the projections."""
    ops = Recorder()
    x = ops.embed(matrix(32))
    q, k, v = (ops.linear(x, matrix(rows)) for rows in (16, 8, 8))
    q, k = prepare(ops, q, k)
    x = ops.add(x, ops.attention(q, k, v, 0, SPEC))
    ops.logits(ops.logit_rows(x), matrix(32))
    return fuse(ops.trace, always)


def kinds(found: Trace) -> list[type[Node]]:
    return [type(node) for node in found.nodes if isinstance(node, Norm | Rotate | SelfAttention)]


ROPE = Rope(np.ones(4, np.float32))


def test_heads_are_prepared_by_attention_only_where_both_are_alike() -> None:
    plain = kinds(heads(lambda ops, q, k: (q, k)))
    assert plain == [SelfAttention]
    both = heads(lambda ops, q, k: (ops.rope(q, ROPE, 2), ops.rope(k, ROPE, 1)))
    assert kinds(both) == plain
    assert next(node.rope for node in both.nodes if isinstance(node, SelfAttention)) is ROPE
    assert kinds(heads(lambda ops, q, k: (ops.rope(q, ROPE, 2), k))) == [Rotate, *plain]
    other = Rope(np.ones(4, np.float32))
    assert kinds(heads(lambda ops, q, k: (ops.rope(q, ROPE, 2), ops.rope(k, other, 1)))) == [Rotate, Rotate, *plain]


def test_a_norm_over_all_heads_is_not_one_of_each_head() -> None:
    whole = heads(lambda ops, q, k: (ops.rms_norm(q, vector(16), 1e-6), ops.rms_norm(k, vector(8), 1e-6)))
    assert kinds(whole) == [Norm, Norm, SelfAttention]
    each = heads(lambda ops, q, k: (ops.rms_norm(q, vector(8), 1e-6), ops.rms_norm(k, vector(8), 1e-6)))
    assert kinds(each) == [SelfAttention]


def test_a_rotated_key_that_is_read_twice_stays() -> None:
    def prepare(ops: Recorder, q: int, k: int) -> tuple[int, int]:
        q, k = ops.rope(q, ROPE, 2), ops.rope(k, ROPE, 1)
        ops.add(k, k)
        return q, k

    assert kinds(heads(prepare)).count(Rotate) == 2


def test_a_residual_that_is_read_again_is_not_overwritten() -> None:
    ops = Recorder()
    x = ops.embed(matrix(32))
    y = ops.add(x, ops.linear(x, matrix(16)))
    z = ops.add(y, x)
    ops.logits(ops.logit_rows(z), matrix(32))
    found = fuse(ops.trace, always)
    assert [type(node) for node in found.nodes[:3]] == [Embed, Linear, Add]
