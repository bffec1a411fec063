"""Attention of sequences that keep sinks and recent tokens: close to its twin, and the same bits whatever was dropped
when, in chunks, alone, beside others and in draft trees.

Blocks that a row does not need are missing from its table, and their memory is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo import _native
from octavo.kv.eviction import first_recent, hidden_blocks, seen
from octavo.types import F32, I32, SinkRecent
from tests.ops import twins
from tests.ops.test_attention import CACHES, Context
from tests.ops.test_trees import GEOMETRY, Tree


def second_queries(context: Context, seed: int) -> F32:
    return (np.random.default_rng(seed).standard_normal(context.q.shape) * 2).astype(np.float32)


class Stream:
    """A context of which a step gets the blocks that its rows see. drop: leave the others out of the table."""

    def __init__(self, context: Context, sinks: int, window: int):
        self.context, self.policy = context, SinkRecent(sinks, window)
        self.far = second_queries(context, 77)

    def attend(
        self, isa: str, *spans: tuple[int, int], drop: bool = True, parents: I32 | None = None, plain: int = 0
    ) -> list[F32]:
        """One step whose sequences are prefixes of the stream: for each span, queries start .. stop.

        plain: this many of the spans do not evict."""
        c, size = self.context, self.context.layout.block_size
        starts = np.cumsum([0, *(stop - start for start, stop in spans)], dtype=np.int32)
        q, far = (
            np.concatenate([x[start:stop] for start, stop in spans]).reshape(starts[-1], -1) for x in (c.q, self.far)
        )
        positions = np.concatenate([np.arange(start, stop, dtype=np.int32) for start, stop in spans])
        evicts = [i >= plain for i in range(len(spans))]
        hidden = [
            hidden_blocks(self.policy if on and drop else None, start, size)
            for on, (start, _) in zip(evicts, spans, strict=True)
        ]
        tables = np.zeros((len(spans), len(c.table)), np.int32)
        for row, gone in zip(tables, hidden, strict=True):
            kept = np.delete(c.table, list(gone))
            row[: len(kept)] = kept
        lens = np.array([stop - len(gone) * size for (_, stop), gone in zip(spans, hidden, strict=True)], np.int32)
        sinks, windows = (
            np.array([value if on else 0 for on in evicts], np.int32)
            for value in (self.policy.sinks, self.policy.window)
        )
        out = np.full_like(q, np.nan)
        _native.ops.attention(
            isa, c.cache, 0, q, starts, lens, tables, parents, c.window, c.scale, c.softcap, out,
            positions=positions, sinks=sinks, windows=windows, q_sinks=far,
        )  # fmt: skip
        return np.split(out, starts[1:-1])

    def forget(self, position: int) -> None:
        """Fills the memory of all blocks that the token at `position` does not need with NaN."""
        size = self.context.layout.block_bytes
        for index in hidden_blocks(self.policy, position, self.context.layout.block_size):
            block = int(self.context.table[index])
            self.context.memory[block * size : (block + 1) * size] = 0xFF

    def twin(self, position: int) -> F32:
        """One row in float64, as the rule reads, over the values in the cache."""
        c = self.context
        at = np.arange(position + 1)
        sees = seen(position, at.astype(np.int32), 0 if c.window else self.policy.sinks, self.policy.window)
        if c.window:
            sees &= at > position - c.window
        blocks = [c.layout.read(c.memory, block) for block in c.table]
        k, v = (np.concatenate([b[i] for b in blocks], 1)[:, at[sees]].swapaxes(0, 1) for i in (0, 1))
        near, far = (twins.queried(x[position : position + 1], c.layout.kv_type)[0] for x in (c.q, self.far))
        group = len(near) // c.layout.kv_heads
        out = np.empty(near.shape)
        for head in range(len(near)):
            kv = head // group
            q = np.where((at[sees] < self.policy.sinks)[:, None] & (not c.window), far[head], near[head])
            scores = (q.astype(np.float64) * k[:, kv]).sum(-1) * c.scale
            if c.softcap:
                scores = c.softcap * np.tanh(scores / c.softcap)
            weights = np.exp(scores - scores.max())
            out[head] = weights / weights.sum() @ v[:, kv]
        return twins.turned(out.astype(np.float32), c.layout.kv_type).reshape(-1)


POLICIES = [(16, 16), (16, 64), (32, 512), (512, 48), (80, 16)]


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
@pytest.mark.parametrize("policy", POLICIES)
def test_near_the_twin(isa: str, kv_type: str, block_size: int, policy: tuple[int, int]):
    stream = Stream(Context(700, 6, 2, 64, kv_type, block_size), *policy)
    for position in (0, 5, 15, 16, 17, 40, 63, 64, 95, 96, 130, 511, 512, 699):
        [row] = stream.attend(isa, (position, position + 1))
        assert np.abs(row[0] - stream.twin(position)).max() < twins.ATTENTION_NEAR[kv_type], position


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
@pytest.mark.parametrize("shape", GEOMETRY)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_is_the_same_bits_in_a_chunk_and_alone_with_blocks_dropped(
    isa: str, kv_type: str, block_size: int, shape: tuple[int, ...], policy: tuple[int, int]
):
    length = 1100 if shape == (6, 2, 64) else 260
    stream = Stream(Context(length, *shape, kv_type, block_size), *policy)
    [whole] = stream.attend(isa, (0, length), drop=False)
    for start, stop in ((0, 3), (15, 18), (100, 129), (length - 40, length)):
        [chunk] = stream.attend(isa, (start, stop))
        assert chunk.tobytes() == whole[start:stop].tobytes(), (start, stop)
    for position in (31, 64, 200, length - 1):
        stream.forget(position)
        [row] = stream.attend(isa, (position, position + 1))
        assert row.tobytes() == whole[position : position + 1].tobytes(), position


def test_beside_others(isa: str):
    """Sequences that do not evict get the bits of a step without any that do."""
    context = Context(900, 6, 2, 64)
    stream = Stream(context, 16, 96)
    spans = [(899, 900), (700, 720), (3, 4), (899, 900), (640, 660), (5, 9), (880, 881)]
    rows = stream.attend(isa, *spans, plain=3)
    for row, expected in zip(rows[:3], context.attend(isa, *spans[:3]), strict=True):
        assert row.tobytes() == expected.tobytes()
    for row, span in zip(rows[3:], spans[3:], strict=True):
        assert row.tobytes() == stream.attend(isa, span, drop=False)[0].tobytes()


@pytest.mark.parametrize("window", [1, 40, 96])
def test_a_layer_with_a_window_keeps_it(isa: str, window: int):
    """Within the recent tokens it sees what it would see without eviction, bit for bit, and no sinks."""
    context = Context(700, 3, 1, 64, window=window)
    stream = Stream(context, 16, 96)
    for span in ((0, 30), (600, 640), (699, 700)):
        assert stream.attend(isa, span)[0].tobytes() == context.attend(isa, span)[0].tobytes()


def test_a_larger_window_of_a_layer_ends_with_the_recent_tokens(isa: str):
    stream = Stream(Context(700, 3, 1, 64, window=500), 16, 96)
    for position in (50, 300, 699):
        assert np.abs(stream.attend(isa, (position, position + 1))[0][0] - stream.twin(position)).max() < 0.01


@pytest.mark.parametrize("committed", [1, 14, 40, 130, 200, 527])
@pytest.mark.parametrize("policy", [(16, 16), (80, 16), (16, 64), (512, 32)])
def test_a_node_of_a_draft_tree_is_the_same_bits_as_its_chain(isa: str, committed: int, policy: tuple[int, int]):
    tree, line = (Tree(committed, 21, 3, 1, 64, seed=committed) for _ in range(2))
    trees, lines = Stream(tree, *policy), Stream(line, *policy)
    [out] = trees.attend(isa, (committed - 1, committed + 21), parents=tree.parents(1))
    for node in range(21):
        path = tree.path(node)
        stop = committed + len(path)
        for x, y in ((line.q, tree.q), (line.k, tree.k), (line.v, tree.v), (lines.far, trees.far)):
            x[committed:stop] = y[path]
        line.write(committed, stop)
        [alone] = lines.attend(isa, (stop - 1, stop))
        assert out[1 + node].tobytes() == alone[0].tobytes(), (node, path)


def test_far_into_a_stream(isa: str):
    """Positions far beyond the table: only their differences count."""
    stream = Stream(Context(400, 6, 2, 64), 16, 96)
    c, (start, stop) = stream.context, (390, 400)
    near = stream.attend(isa, (start, stop))[0]
    gone = hidden_blocks(stream.policy, start, 16)
    kept = np.delete(c.table, list(gone))[None].copy()
    for far_away in (512 * 2_000, 512 * 200_000):
        out = np.full((10, 6 * 64), np.nan, np.float32)
        positions = np.arange(start, stop, dtype=np.int32) + np.int32(far_away)
        one = np.ones(1, np.int32)
        lens = np.array([stop - len(gone) * 16], np.int32)
        _native.ops.attention(
            isa, c.cache, 0, c.q[start:stop].reshape(10, -1), np.array([0, 10], np.int32), lens, kept, None, 0, c.scale,
            0.0, out, positions=positions, sinks=16 * one, windows=96 * one,
            q_sinks=stream.far[start:stop].reshape(10, -1),
        )  # fmt: skip
        assert out.tobytes() == near.tobytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sinks": 15}, "sinks"),
        ({"sinks": 528}, "sinks"),
        ({"windows": 17}, "windows"),
        ({"windows": 0}, "windows"),
        ({"positions": 399}, "positions"),
        ({"positions": 408}, "positions"),
        ({"positions": 416}, "positions"),
        ({"positions": -16}, "positions"),
    ],
    ids=str,
)
def test_what_would_lead_outside_the_table_is_refused(change: dict[str, int], match: str):
    context = Context(120, 2, 1, 64)
    values = {"sinks": 16, "windows": 96, "positions": 119 + 16} | change
    one: dict[str, Any] = {name: np.array([value], np.int32) for name, value in values.items()}
    q = context.q[119:].reshape(1, -1)
    lens, starts = np.array([120], np.int32), np.array([0, 1], np.int32)
    with pytest.raises(ValueError, match=match):
        _native.ops.attention(
            "portable", context.cache, 0, q, starts, lens, context.table[None].copy(), None, 0, 1.0, 0.0, q.copy(),
            positions=one["positions"], sinks=one["sinks"], windows=one["windows"], q_sinks=q,
        )  # fmt: skip


def test_the_second_query_is_the_first_at_another_position(isa: str):
    rng = np.random.default_rng(0)
    cache = _native.KvCache([(1, 64)], 2, 16, 1)
    q, norm = rng.standard_normal((3, 128)).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    k, v = rng.standard_normal((2, 3, 64)).astype(np.float32)
    turns = rng.standard_normal((2, 3, 64)).astype(np.float32)
    slots, far = np.arange(3, dtype=np.int32), np.zeros_like(q)
    both, other = q.copy(), q.copy()
    _native.ops.qkv(
        isa, cache, 0, slots, both, k, v, norm, norm, 1e-6, turns[0], False, q_sinks=far, sink_cos_sin=turns[1]
    )
    _native.ops.qkv(isa, cache, 0, slots, other, k, v, norm, norm, 1e-6, turns[1], False)
    assert far.tobytes() == other.tobytes() and far.tobytes() != both.tobytes()


def test_first_recent_is_the_kernels():
    """The two forms of the rule agree."""
    for window in (16, 48, 1024):
        for position in (0, 15, 16, 63, 64, 1040, 5000):
            keys = np.arange(position + 1, dtype=np.int32)
            assert int(np.flatnonzero(seen(position, keys, 0, window))[0]) == first_recent(position, window)
