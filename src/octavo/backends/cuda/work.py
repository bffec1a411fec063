"""Which rows of a batch see which keys, and the work lists of attention, in numpy.

Row t sees keys 0 .. last[t] of its sequence, or the last `window` of them. Key j lies where the block table says while
j < tails[t]; from there on at slot paths[path_at[t] + j - tails[t]]. Only nodes of a draft tree have such a tail: their
ancestors' slots and their own. So a node reads the keys of its chain, in the same places of the same splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.backends.base import branch
from octavo.backends.cuda.launch import MAX_PARTS, attend_tile
from octavo.ir import Attention
from octavo.types import I32, Batch

Ints = NDArray[np.signedinteger[Any]]
NO_TAIL = 2**31 - 1
ALIGNED = 4  # numbers at whose multiples the fields begin: 16 bytes
LISTS = 2  # header of the blob: from here on, for each `View`, three pairs: where a list begins, and its length


class View(NamedTuple):
    """What attention's work lists depend on: layers with the same one share them."""

    window: int
    split: int
    whole_tile: int  # tokens
    parts_tile: int


def view(spec: Attention, kv: str, wgmma: bool = True) -> View:
    """kv, wgmma: see `launch.attend_tile`."""
    group = spec.heads // spec.kv_heads
    whole, parts = (attend_tile(max(spec.head_dim, spec.value_dim), form, kv, wgmma) for form in (True, False))
    assert whole.split == parts.split
    return View(spec.window, whole.split, max(1, whole.rows // group), max(1, parts.rows // group))


def aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def header_size(views: int) -> int:
    return aligned(LISTS + 6 * views)


def max_rows(max_tokens: int, max_seqs: int) -> int:
    """Logit rows of a step: the answers of one prompt (n > 1) each take one."""
    return max_tokens + max_seqs


def blob_size(views: int, max_tokens: int, max_seqs: int, max_blocks: int) -> int:
    """int32s of step.py's blob: header, fields by row, work lists, block tables, paths."""
    rows = max_tokens * (6 + views) + 2 * max_rows(max_tokens, max_seqs) + ALIGNED * (8 + views)
    lists = views * (4 * (max_tokens * 2 + MAX_PARTS) + max_tokens)
    return header_size(views) + rows + lists + max_seqs * max_blocks + max_tokens * max_tokens // 2


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

    Both forms give the same bits, so the choice may depend on the batch. Every step makes these lists, so there is no
    loop over its sequences."""
    starts, counts = batch.query_starts[:-1], np.diff(batch.query_starts)
    begin = np.maximum(found.last - (window - 1), 0) // split if window else np.zeros_like(found.last)
    splits = found.last // split + 1 - begin  # of each row
    short = counts <= 2 * parts_tile
    tokens = np.cumsum(np.where(short, counts, 0))
    used = np.cumsum(np.where(short, np.add.reduceat(splits, starts), 0))
    in_parts = short & (tokens <= max_tokens) & (used <= max_parts)
    rows = np.flatnonzero(np.repeat(in_parts, counts))
    part_at = np.full(len(found.last), -1, np.int32)
    part_at[rows] = np.cumsum(splits[rows]) - splits[rows]
    return Work(
        _whole(starts, counts, found, np.flatnonzero(~in_parts), whole_tile),
        _parts(starts, counts, found, np.flatnonzero(in_parts), rows, begin, split, parts_tile),
        part_at,
        rows.astype(np.int32),
    )


def _tiles(seqs: Ints, starts: Ints, counts: Ints, tile: int) -> tuple[Ints, Ints, Ints]:
    """(sequence, first token, tokens) of the tiles of these runs of tokens, one a sequence."""
    each = -(-counts // tile)
    index = np.repeat(np.arange(len(seqs)), each)
    offset = tile * _count_up(each)
    return seqs[index], starts[index] + offset, np.minimum(counts[index] - offset, tile)


def _count_up(lengths: Ints) -> Ints:
    """0, 1, .. for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _parts(starts: Ints, counts: Ints, found: Keys, seqs: Ints, rows: Ints, begin: Ints, split: int, tile: int) -> I32:
    """Tiles share the splits below a node's own; a node has those alone. rows: those of the sequences."""
    low, high = begin[rows], found.last[rows] // split  # of each row
    alone = np.ones_like(rows)
    if len(rows) == len(seqs):  # one token each: nothing to share
        return _by_split(seqs, rows, alone, low, high)
    seq, first, count = _tiles(seqs, starts[seqs], counts[seqs], tile)
    shared = np.where(found.tails[rows] < NO_TAIL, found.tails[rows] // split - 1, high)  # the last that a row shares
    at = np.cumsum(count) - count
    tile_low, tile_high = np.minimum.reduceat(low, at), np.maximum.reduceat(shared, at)
    tile_high = np.where(count > 1, tile_high, -1)  # a row without neighbours has all its splits for itself
    low = np.where(np.repeat(count, count) > 1, np.maximum(low, shared + 1), low)
    together = _by_split(seq, first, count, tile_low, tile_high)
    return np.concatenate([together, _by_split(np.repeat(seq, count), rows, alone, low, high)])


def _by_split(seq: Ints, first: Ints, count: Ints, low: Ints, high: Ints) -> I32:
    """An item for each split from `low` to `high`."""
    lengths = np.maximum(high - low + 1, 0)
    index = np.repeat(np.arange(len(lengths)), lengths)
    return _items(seq[index], first[index], count[index], low[index] + _count_up(lengths))


def _whole(starts: Ints, counts: Ints, found: Keys, seqs: Ints, tile: int) -> I32:
    """Tiles of ordinary rows; each node for itself."""
    if not len(seqs):
        return _items()
    nodes = np.add.reduceat(found.tails < NO_TAIL, starts, dtype=np.int64)
    seq, first, count = _tiles(seqs, starts[seqs], (counts - nodes)[seqs], tile)
    alone = np.repeat(starts[seqs] + (counts - nodes)[seqs], nodes[seqs]) + _count_up(nodes[seqs])
    return _items(
        np.concatenate([seq, np.repeat(seqs, nodes[seqs])]),
        np.concatenate([first, alone]),
        np.concatenate([count, np.ones_like(alone)]),
        np.zeros(len(first) + len(alone), np.int64),
    )


def _items(*columns: Ints) -> I32:
    """[n, 4]"""
    return np.stack(columns, 1).astype(np.int32) if columns else np.zeros((0, 4), np.int32)
