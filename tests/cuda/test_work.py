"""Attention's work lists, made without loops, against loops that say what they mean."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from octavo.backends.cuda.work import NO_TAIL, Keys, keys, work
from octavo.types import I32, Batch
from tests.batches import Row, make_batch

Item = tuple[int, int, int, int]


def batch(rng: random.Random) -> Batch:
    """Decoding, short and long chunks, and trees of drafts behind some of them."""
    rows, parents, at = [], [], 0
    for _ in range(rng.randint(1, 6)):
        count = rng.choice([1, 1, 1, 2, 3, 7, 9, 20])
        nodes = rng.choice([0, 0, 2, 5])
        rows.append(Row([0] * (count + nodes), start=rng.choice([0, 0, 5, 40, 100])))
        root = at + count - 1
        parents += [-1] * count + [rng.randrange(root, root + 1 + node) for node in range(nodes)]
        at += count + nodes
    return make_batch(rows, parents=np.array(parents, np.int32))


def slow(
    batch: Batch, found: Keys, window: int, split: int, whole_tile: int, parts_tile: int, parts: set[int]
) -> tuple[set[Item], set[Item], I32]:
    """(whole items, part items, part_at), given the sequences that have parts."""
    whole: set[Item] = set()
    items: set[Item] = set()
    part_at, used = np.full(len(found.last), -1, np.int32), 0
    begin = [max(last - window + 1, 0) // split if window else 0 for last in found.last.tolist()]
    high = (found.last // split).tolist()
    nodes = (found.tails < NO_TAIL).tolist()
    for seq, (start, stop) in enumerate(pairwise(batch.query_starts.tolist())):
        if seq not in parts:
            ordinary = stop - sum(nodes[start:stop])
            whole |= {(seq, at, min(whole_tile, ordinary - at), 0) for at in range(start, ordinary, whole_tile)}
            whole |= {(seq, node, 1, 0) for node in range(ordinary, stop)}
            continue
        for first in range(start, stop, parts_tile):
            rows = range(first, min(first + parts_tile, stop))
            shared = [found.tails[row] // split - 1 if nodes[row] else high[row] for row in rows]
            low = min(begin[row] for row in rows)
            if len(rows) > 1:
                items |= {(seq, first, len(rows), each) for each in range(low, max(shared) + 1)}
            for row, last in zip(rows, shared, strict=True):
                own = begin[row] if len(rows) == 1 else max(begin[row], last + 1)
                items |= {(seq, row, 1, each) for each in range(own, high[row] + 1)}
                part_at[row], used = used, used + high[row] + 1 - begin[row]
    return whole, items, part_at


@pytest.mark.parametrize("seed", range(60))
def test_lists(seed: int) -> None:
    rng = random.Random(seed)
    made = batch(rng)
    found, counts = keys(made), np.diff(made.query_starts)
    window, split, whole_tile, parts_tile = rng.choice([0, 9, 64]), 8, rng.choice([1, 6]), rng.choice([1, 2, 4])
    max_tokens, max_parts = rng.choice([4, 100]), rng.choice([20, 4096])
    lists = work(made, found, window, split, whole_tile, parts_tile, max_tokens, max_parts)
    parts = {seq for seq, at in enumerate(made.query_starts[:-1]) if lists.part_at[at] >= 0}
    whole, items, part_at = slow(made, found, window, split, whole_tile, parts_tile, parts)
    assert sorted(map(tuple, lists.whole.tolist())) == sorted(whole)
    assert sorted(map(tuple, lists.parts.tolist())) == sorted(items)
    assert (lists.part_at == part_at).all() and (lists.added == np.flatnonzero(part_at >= 0)).all()
    assert all(counts[seq] <= 2 * parts_tile for seq in parts) and len(lists.added) <= max_tokens
    begin = np.maximum(found.last - window + 1, 0) // split if window else 0
    assert (found.last // split + 1 - begin)[lists.added].sum() <= max_parts
    if max_tokens == 100 and max_parts == 4096:
        assert parts == set(np.flatnonzero(counts <= 2 * parts_tile).tolist())
