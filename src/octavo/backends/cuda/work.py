"""Which rows of a batch see which keys, and the work lists of attention, in numpy.

Row t sees keys 0 .. last[t] of its sequence, or the last `window` of them. Key j lies where the block table says while
j < tails[t]; from there on at slot paths[path_at[t] + j - tails[t]]. Only nodes of a draft tree have such a tail: their
ancestors' slots and their own. So a node reads the keys of its chain, in the same places of the same splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from octavo.backends.base import branch
from octavo.types import I32, Batch

NO_TAIL = 2**31 - 1
Item = tuple[int, int, int, int]


@dataclass(frozen=True)
class Keys:
    """The keys of T rows."""

    last: I32  # [T]
    tails: I32  # [T]; NO_TAIL for ordinary rows
    path_at: I32  # [T]
    paths: I32


def keys(batch: Batch) -> Keys:
    counts = np.diff(batch.query_starts)
    ends = batch.query_starts[1:]
    rows = np.arange(len(batch.token_ids), dtype=np.int32)
    last = (rows + (batch.context_lens - ends).repeat(counts)).astype(np.int32)
    tails, path_at = np.full(len(rows), NO_TAIL, np.int32), np.zeros(len(rows), np.int32)
    paths: list[int] = []
    if batch.parents is not None:
        for node in np.flatnonzero(batch.parents >= 0).tolist():
            chain = branch(batch, node)
            root = int(batch.parents[chain[0]])
            tails[node], last[node], path_at[node] = last[root] + 1, last[root] + len(chain), len(paths)
            paths += batch.slot_mapping[chain].tolist()
    return Keys(last, tails, path_at, np.array(paths, np.int32))


@dataclass(frozen=True)
class Work:
    """Attention's items [n, 4]: sequence, first token, tokens, split.

    whole: tiles that walk all their splits. parts: one split each, whose sums go to part_at[token] + split - the
    token's first split. added: the tokens with parts."""

    whole: I32
    parts: I32
    part_at: I32  # [T]; -1: the token has none
    added: I32


def work(
    batch: Batch,
    found: Keys,
    window: int,
    split: int,
    whole_tile: int,
    parts_tile: int,
    max_tokens: int,
    max_parts: int,
) -> Work:
    """*_tile: tokens of a tile of either form. Sequences of up to two tiles get parts, while there is room for them.

    Both forms give the same bits, so the choice may depend on the batch."""
    whole: list[Item] = []
    parts: list[Item] = []
    part_at = np.full(len(found.last), -1, np.int32)
    begin = np.maximum(found.last - (window - 1), 0) // split if window else np.zeros_like(found.last)
    splits = found.last // split + 1 - begin  # of each row
    added: list[int] = []
    used = 0
    starts = batch.query_starts.tolist()
    for seq, (start, stop) in enumerate(pairwise(starts)):
        needed = int(splits[start:stop].sum())
        fits = len(added) + stop - start <= max_tokens and used + needed <= max_parts
        if fits and stop - start <= 2 * parts_tile:
            part_at[start:stop] = used + np.cumsum([0, *splits[start : stop - 1]])
            used += needed
            added += range(start, stop)
            parts += _parts(seq, start, stop, found, begin, split, parts_tile)
        else:
            whole += _whole(seq, start, stop, found, whole_tile)
    return Work(_items(whole), _items(parts), part_at, np.array(added, np.int32))


def _parts(seq: int, start: int, stop: int, found: Keys, begin: I32, split: int, tile: int) -> Iterator[Item]:
    """Tiles share the splits below a node's own; a node has those alone."""
    nodes = found.tails < NO_TAIL
    end = np.where(nodes, found.tails // split - 1, found.last // split)  # the last split that a row shares
    for first in range(start, stop, tile):
        rows = slice(first, min(first + tile, stop))
        count = rows.stop - first
        if count > 1:
            yield from ((seq, first, count, s) for s in range(int(begin[rows].min()), int(end[rows].max()) + 1))
        for row in range(first, rows.stop):
            low = begin[row] if count == 1 else max(begin[row], end[row] + 1)
            yield from ((seq, row, 1, s) for s in range(int(low), int(found.last[row]) // split + 1))


def _whole(seq: int, start: int, stop: int, found: Keys, tile: int) -> list[Item]:
    ordinary = start + int((found.tails[start:stop] == NO_TAIL).sum())
    tiles = [(seq, first, min(tile, ordinary - first), 0) for first in range(start, ordinary, tile)]
    return tiles + [(seq, node, 1, 0) for node in range(ordinary, stop)]


def _items(listed: list[Item]) -> I32:
    return np.array(listed, np.int32).reshape(-1, 4)
