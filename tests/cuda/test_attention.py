"""Heads and attention near float64 twins; the same bits alone, in a chunk, whole or in parts, as a node of a tree."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_fields

from octavo.backends.cuda import attention, step, work
from octavo.backends.cuda.launch import attend_tile
from octavo.backends.cuda.lower import stored
from octavo.backends.cuda.pool import KvPool
from octavo.backends.cuda.stream import Stream
from octavo.backends.cuda.values import kv_operand
from octavo.backends.plan.nodes import Norm, SelfAttention
from octavo.config import CacheConfig
from octavo.ir import Attention, Rope, Weight
from octavo.types import F32, Batch
from tests.batches import Row, make_batch
from tests.cuda.where import APART, DEVICE, GPU, on_device
from tests.ops import twins

SPEC = Attention(heads=6, kv_heads=2, head_dim=16, scale=0.3)
SPLIT = attend_tile(16, True, "f32").split
END = 300 if GPU else 70  # tokens of the text that most tests compute; a GPU's splits are longer than numpy's
POSITIONS = END + 30
BLOCKS = 2 * POSITIONS // 16
TABLE = np.random.default_rng(7).permutation(BLOCKS)[: POSITIONS // 16 + 1].tolist()
ROPE = Rope((1 / 10 ** np.arange(6)).astype(np.float32), interleaved=True, scale=0.9)


class Layer:
    """One layer over a pool. Token i of the text has row i of q, k and v, wherever and whenever it runs."""

    def __init__(self, spec: Attention = SPEC, kv: str = "f32", rope: Rope | None = None, norms: bool = False):
        rng = np.random.default_rng(5)
        shapes = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.value_dim)
        self.q, self.k, self.v = (rng.standard_normal((POSITIONS, size)).astype(np.float32) for size in shapes)
        self.spec, self.kv, self.rope = spec, kv, rope
        self.weight = rng.standard_normal(spec.head_dim).astype(np.float32) if norms else None
        self.pool = KvPool(CacheConfig(BLOCKS, 16, kv), (spec,), Stream(DEVICE))
        if kv != "int8":
            self.pool.data.fill_(float("nan"))
        self.steps = step.Steps([work.view(spec, kv)], END + 50, 4, len(TABLE), Stream(DEVICE))
        self.parts = attention.Parts(self.steps, self.pool, DEVICE)

    def run(self, batch: Batch, rows: list[int]) -> F32:
        """[len(rows), heads * value_dim]. rows: the batch's tokens, as rows of the text."""
        count = len(rows)
        norm = None
        if self.weight is not None:
            norm = Norm(0, Weight("n", (self.spec.head_dim,), "F32", self.weight.view(np.uint8)), 1e-6, 1)
        node = SelfAttention(0, 1, 2, 0, self.spec, 3, q_norm=norm, k_norm=norm, rope=self.rope)
        qkv = [on_device(x[rows]) for x in (self.q, self.k, self.v)]
        weight = None if self.weight is None else on_device(self.weight)
        angles = None
        if self.rope is not None:
            table = [twins.angles(self.rope.inv_freq, self.rope.scale, p) for p in range(POSITIONS)]
            angles = on_device(np.array(table, np.float32))
        width, dtype = self.spec.heads * self.spec.head_dim, stored(kv_operand(self.kv))
        q = torch.full((count, width), float("nan"), dtype=dtype, device=DEVICE)
        out = torch.full((count, self.spec.heads * self.spec.value_dim), float("nan"), device=DEVICE)
        self.steps.fill(batch, count, 1)
        fields = self.steps.fields(count, 1)
        for op in (
            attention.heads(node, self.pool, q, qkv, [weight, weight], angles),
            attention.attend(node, self.parts, q, out),
        ):
            for launch in op(fields):
                launch()
        return out.cpu().numpy()

    def chunk(self, start: int, stop: int) -> F32:
        rows = list(range(start, stop))
        return self.run(make_batch([Row(rows, start=start, table=TABLE)]), rows)

    def twin(self, stop: int) -> np.ndarray:
        """Every row up to `stop`."""
        spec, prepared = self.spec, []
        for x, dim in ((self.q, spec.head_dim), (self.k, spec.head_dim), (self.v, spec.value_dim)):
            by_head = x[:stop].reshape(stop, -1, dim).astype(np.float64)
            if x is not self.v and self.weight is not None:
                by_head = twins.rms_norm(by_head, self.weight, 1e-6)
            if x is not self.v and self.rope is not None:
                by_head = np.array(
                    [
                        twins.rope(row, twins.angles(self.rope.inv_freq, self.rope.scale, p), self.rope.interleaved)
                        for p, row in enumerate(by_head)
                    ]
                )
            prepared.append(by_head.astype(np.float32))
        q, k, v = prepared
        q, k = twins.turned(q, self.kv), twins.stored(k, self.kv)
        v = twins.int8_row(v) if self.kv == "int8" else twins.stored(v, self.kv)  # not rotated
        return twins.attention(q, k, v, 0, spec.scale, spec.window, spec.softcap).reshape(stop, -1)


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, window=37),
        replace(SPEC, softcap=2.0, head_dim=24, value_dim=24),
        replace(SPEC, head_dim=5, value_dim=5),
        replace(SPEC, heads=2, kv_heads=1, head_dim=160, value_dim=160),  # two programs: 128 and 32 columns of values
    ],
    ids=str,
)
def test_near_the_twin(kv: str, spec: Attention) -> None:
    layer = Layer(spec, kv)
    # The interpreter cuts bf16 off instead of rounding it, and has f32 where int8 codes are bf16 on a GPU.
    near = {"f32": 5e-6 * APART, "bf16": 0.05, "int8": 0.05 if GPU else 5e-5}[kv]
    assert np.abs(layer.chunk(0, END) - layer.twin(END)).max() < near


@pytest.mark.parametrize("interleaved", [False, True])
def test_head_norms_and_rotation_of_a_part_of_a_head(interleaved: bool) -> None:
    """12 of 16 dimensions are rotated."""
    layer = Layer(rope=replace(ROPE, interleaved=interleaved), norms=True)
    assert np.abs(layer.chunk(0, 40) - layer.twin(40)).max() < 1e-5 * APART


@pytest.mark.parametrize("kv", ["f32", "int8"])
@pytest.mark.parametrize("window", [0, 37])
def test_same_bits_in_chunks_decoding_and_both_forms(kv: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows run whole, 3 and 1 in parts; without memory for parts all run whole."""
    spec = replace(SPEC, window=window)
    once = Layer(spec, kv)
    want = once.chunk(0, END)
    layer = Layer(spec, kv)
    found = np.concatenate([layer.chunk(a, b) for a, b in pairwise((0, 3, END - 10, END - 1, END))])
    assert found.tobytes() == want.tobytes()
    monkeypatch.setattr(step, "MAX_PARTS", 0)
    assert once.chunk(END - 5, END - 2).tobytes() == want[END - 5 : END - 2].tobytes()


@pytest.mark.parametrize(
    ("committed", "window", "parts"),
    [(SPLIT - 3, 0, True), (SPLIT, 20, True), (SPLIT + 1, 0, False), (SPLIT - 3, 20, False)],
)
def test_a_node_is_the_same_bits_as_its_chain(
    committed: int, window: int, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of 9 nodes after the root, wherever it lies in a split; rows of the text take the nodes' places."""
    parents = [-1, -1, 0, 2, 1, 3, 3, 5, 6]
    spec = replace(SPEC, window=window)
    tree = Layer(spec)
    tree.chunk(0, committed - 1)
    if not parts:
        monkeypatch.setattr(step, "MAX_PARTS", 0)
    rows = list(range(committed - 1, committed + len(parents)))
    batch = make_batch([Row(rows, start=committed - 1, table=TABLE)])
    planted = np.array([-1] + [parent + 1 for parent in parents], np.int32)
    depth = np.zeros(len(rows), np.int32)
    for i, parent in enumerate(planted.tolist()):
        depth[i] = 0 if parent < 0 else depth[parent] + 1
    found = tree.run(with_fields(batch, parents=planted, positions=depth + committed - 1), rows)
    for node in (3, 8):
        path, at = [], node
        while at >= 0:
            path.insert(0, at)
            at = parents[at]
        line = Layer(spec)
        line.chunk(0, committed)
        tokens = [committed + each for each in path]
        end = committed + len(path)
        for x, y in ((line.q, tree.q), (line.k, tree.k), (line.v, tree.v)):
            x[committed:end] = y[tokens]
        assert line.chunk(committed, end)[-1].tobytes() == found[node + 1].tobytes(), node


def test_the_work_covers_every_visible_key_once() -> None:
    batch = make_batch([Row([1] * 40, start=3), Row([1], start=90), Row([1] * 4, start=62)])
    found = work.keys(batch)
    lists = work.work(batch, found, 0, 32, 8, 4, 512, 4096)
    assert lists.whole[:, 2].sum() == 40 and (lists.whole[:, 0] == 0).all()
    assert lists.added.tolist() == [40, 41, 42, 43, 44]
    seen = sorted((row, item[3]) for item in lists.parts.tolist() for row in range(item[1], item[1] + item[2]))
    assert seen == sorted({*((40, s) for s in range(3)), *((r, s) for r in range(41, 45) for s in range(3))})
    assert lists.part_at[40:].tolist() == [0, 3, 5, 7, 10]
