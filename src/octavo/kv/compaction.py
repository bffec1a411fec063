"""Moves the blocks of running sequences side by side in the pool. It changes where keys and values are, never a bit.

Blocks of one sequence lie apart once others have come and gone. Off by default: attention reads a block's share of one
layer in one piece anyway, and what neighbours gain was too little to measure (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from octavo.kv.blocks import BlockPool
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Sequence, Status

MOST_MOVES = 8  # blocks a step: a move reads and writes a block in all layers


def scattered(tables: Iterable[list[int]]) -> float:
    """Share of the blocks in these tables that do not follow the block before them in the pool; 0 if there are none."""
    pairs = [(a, b) for table in tables for a, b in pairwise(table)]
    return sum(b != a + 1 for a, b in pairs) / len(pairs) if pairs else 0.0


def gather(pool: BlockPool, tables: BlockTables, transfers: PendingTransfers, most: int = MOST_MOVES) -> int:
    """Moves up to `most` blocks to the free block behind the one before them. Returns how many were moved.

    A shared block stays, and so does one without a free neighbour. A block keeps its key.
    """
    moved = 0
    for seq in [seq for seq in tables.rows if seq.status is Status.RUNNING]:
        for index, block in _apart(seq):
            if moved == most:
                return moved
            target = seq.block_table[index - 1] + 1
            if pool.refs[block] == 1 and pool.move(block, target):
                tables.replace(seq, index, target)
                transfers.copies.append((block, target))
                moved += 1
    return moved


def _apart(seq: Sequence) -> Iterable[tuple[int, int]]:
    """(index in its table, block) of each block that does not follow the one before it. Sees moves as they are made."""
    table = seq.block_table
    for index in range(1, len(table)):
        if table[index] != table[index - 1] + 1:
            yield index, table[index]
