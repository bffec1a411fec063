"""Batches without a scheduler, to drive a backend directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.kv.transfers import Pair, pairs
from octavo.sampling.arrays import greedy
from octavo.types import I32, Batch, Transfers


@dataclass
class Row:
    """One sequence's part of a batch: query tokens after `start` tokens that are in the cache already.

    table: its blocks; by default 0, 1, 2, ... all_rows: logits after every query token, not only the last.
    """

    token_ids: Sequence[int]
    start: int = 0
    table: Sequence[int] = ()
    all_rows: bool = False

    @property
    def stop(self) -> int:
        return self.start + len(self.token_ids)


def make_batch(rows: Sequence[Row], block_size: int = 16, **fields: Any) -> Batch:
    """A greedy batch of these rows; `fields` are further fields of `Batch`."""
    tables = _tables(rows, block_size)
    starts = np.cumsum([0, *(len(row.token_ids) for row in rows)], dtype=np.int32)
    positions = [np.arange(row.start, row.stop, dtype=np.int32) for row in rows]
    slots = [table[p // block_size] * block_size + p % block_size for table, p in zip(tables, positions, strict=True)]
    logit_rows = [
        np.arange(a if row.all_rows else b - 1, b) for row, a, b in zip(rows, starts, starts[1:], strict=False)
    ]
    count = sum(map(len, logit_rows))
    defaults = {"targets": np.full(count, -1, np.int32), "sampling": greedy(count)}
    return Batch(
        token_ids=np.concatenate([np.asarray(row.token_ids, np.int32) for row in rows]),
        positions=np.concatenate(positions),
        slot_mapping=np.concatenate(slots).astype(np.int32),
        query_starts=starts,
        context_lens=np.array([row.stop for row in rows], np.int32),
        block_tables=tables,
        logit_rows=np.concatenate(logit_rows).astype(np.int32),
        **{**defaults, **fields},
    )


def transfers(moves: Sequence[Pair] = (), copies: Sequence[Pair] = ()) -> Transfers:
    return Transfers(pairs(list(moves)), pairs(list(copies)))


def _tables(rows: Sequence[Row], block_size: int) -> I32:
    counts = [-(-row.stop // block_size) for row in rows]
    tables = np.zeros((len(rows), max(counts)), np.int32)
    for table, row, count in zip(tables, rows, counts, strict=True):
        table[:count] = row.table[:count] if len(row.table) else np.arange(count)
    return tables
