"""Sequences with a common prefix: its blocks are read once for all of them, and no bit changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from octavo import _native
from octavo.types import F32
from tests.ops import twins

HEADS, KV_HEADS, HEAD_DIM, BLOCK = 6, 2, 64, 16


@dataclass
class Member:
    """A sequence: pieces (name, tokens), then its own tokens. Pieces with the same name have the same tokens."""

    pieces: tuple[tuple[str, int], ...]
    own: int
    queries: int = 1
    tree: tuple[int, ...] = ()  # parents of nodes after its own tokens, -1 = the last of them


class Batch:
    def __init__(self, members: list[Member], kv_type: str = "bf16", window: int = 0):
        self.members, self.window = members, window
        rng = np.random.default_rng(0)
        blocks: dict[str, list[int]] = {}
        names = [[*m.pieces, (f"own {i}", m.own + len(m.tree))] for i, m in enumerate(members)]
        spare = iter(rng.permutation(2000).tolist())
        for name, size in (piece for pieces in names for piece in pieces):
            if name not in blocks:
                blocks[name] = [next(spare) for _ in range(-(-size // BLOCK))]
        self.tables = [[block for name, _ in pieces for block in blocks[name]] for pieces in names]
        kv_type, _, biased = kv_type.partition("-")
        self.offset = twins.KeyOffset(KV_HEADS, HEAD_DIM, 4096).arrays if biased else None
        self.cache = _native.KvCache([(KV_HEADS, HEAD_DIM)], 2000, BLOCK, twins.KV_TYPES[kv_type])
        slots = np.array([b * BLOCK + i for ids in blocks.values() for b in ids for i in range(BLOCK)], np.int32)
        k, v = rng.standard_normal((2, len(slots), KV_HEADS * HEAD_DIM)).astype(np.float32)
        q = np.zeros((len(slots), HEADS * HEAD_DIM), np.float32)
        _native.ops.qkv("portable", self.cache, 0, slots, q, k, v, None, None, 0.0, None, False)
        self.q = [rng.standard_normal((m.queries + len(m.tree), HEADS * HEAD_DIM)).astype(np.float32) for m in members]

    def attend(self, isa: str, chosen: list[int]) -> tuple[list[F32], int]:
        """Runs the members in one step. Returns their outputs and the number of items."""
        members = [self.members[i] for i in chosen]
        rows = [m.queries + len(m.tree) for m in members]
        starts = np.cumsum([0, *rows], dtype=np.int32)
        lens = [sum(size for _, size in m.pieces) + m.own + len(m.tree) for m in members]
        tables = np.zeros((len(chosen), max(len(self.tables[i]) for i in chosen)), np.int32)
        for row, i in zip(tables, chosen, strict=True):
            row[: len(self.tables[i])] = self.tables[i]
        parents = np.full(starts[-1], -1, np.int32)
        for m, stop in zip(members, starts[1:], strict=True):
            root = stop - len(m.tree) - 1
            parents[root + 1 : stop] = [root + 1 + parent for parent in m.tree]
        q = np.concatenate([self.q[i] for i in chosen])
        out = np.full_like(q, np.nan)
        items, _ = _native.ops.attention(
            isa,
            self.cache,
            0,
            q,
            starts,
            np.array(lens, np.int32),
            tables,
            parents,
            self.window,
            0.125,
            0.0,
            out,
            self.offset,
        )
        return np.split(out, starts[1:-1]), items

    def check(self, isa: str) -> tuple[int, int]:
        """Checks that outputs are the same together and alone, in any order.

        Returns the items of the whole batch, and the sum of the items of each member alone.
        """
        everyone = list(range(len(self.members)))
        apart = [self.attend(isa, [i]) for i in everyone]
        for order in (everyone, everyone[::-1], everyone[::2] + everyone[1::2]):
            together, items = self.attend(isa, order)
            for i, ours in zip(order, together, strict=True):
                assert ours.tobytes() == apart[i][0][0].tobytes(), i
        return items, sum(count for _, count in apart)


@pytest.mark.parametrize("kv_type", twins.CACHED)
def test_a_common_prefix(isa: str, kv_type: str):
    together, apart = Batch([Member((("a", 1024),), 5 + 40 * i) for i in range(8)], kv_type).check(isa)
    # of each kv head: 2 splits in common and one of its own, instead of 3 each
    assert (together, apart) == (KV_HEADS * (2 + 8), KV_HEADS * 3 * 8)


def test_sequences_do_not_have_to_be_neighbours(isa: str):
    members = [Member(((name, 512),), 20) for name in "ababcb"]
    assert Batch(members).check(isa) == (KV_HEADS * (3 + 6), KV_HEADS * 2 * 6)


def test_prefixes_within_prefixes(isa: str):
    members = [Member((("a", 512), (name, 512), ("z" + name, 512)), 7) for name in "bbcccd"]
    together, apart = Batch(members).check(isa)
    assert (together, apart) == (KV_HEADS * (1 + 3 + 3 + 6), KV_HEADS * 4 * 6)


def test_less_than_a_split_is_not_worth_it(isa: str):
    together, apart = Batch([Member((("a", 496),), 600) for _ in range(3)]).check(isa)
    assert together == apart == KV_HEADS * 3 * 3


def test_a_split_that_is_not_all_in_common(isa: str):
    """Three sequences share 992 tokens. In the second split these are only 480, so each reads it alone."""
    members = [Member((("a", 992),), own) for own in (3, 30, 700)]
    together, apart = Batch(members).check(isa)
    assert apart - together == KV_HEADS * 2


def test_several_queries_trees_and_prefills(isa: str):
    members = [
        Member((("a", 1024),), 1, queries=1),
        Member((("a", 1024),), 4, queries=4),
        Member((("a", 1024),), 2, queries=2, tree=(-1, 0, -1, 2, 2)),
        Member((("a", 1024),), 60, queries=60),
        Member((("a", 1024),), 500, queries=8),
        Member((("a", 512),), 200, queries=200),
        Member((), 5, queries=5),
    ]
    together, apart = Batch(members).check(isa)
    assert together < apart


@pytest.mark.parametrize("window", [40, 512, 700, 1500])
def test_windows(isa: str, window: int):
    """Windows of different sequences begin at different places in a split that they share."""
    members = [Member((("a", 1536),), 5 + 100 * i, queries=1 + i) for i in range(5)]
    together, apart = Batch(members, window=window).check(isa)
    assert (together < apart) == (window > 40)


def test_many_more_than_a_tile_holds(isa: str):
    members = [Member((("a", 512),), 3) for _ in range(40)]
    together, apart = Batch(members).check(isa)
    assert (together, apart) == (KV_HEADS * (4 + 40), KV_HEADS * 2 * 40)  # 10 queries of 3 heads a tile
