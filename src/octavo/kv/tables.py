"""The block tables of all admitted sequences as one array, so that a step gathers rows and converts no Python lists."""

from __future__ import annotations

import numpy as np

from octavo.types import I32, Sequence


class BlockTables:
    """Mirrors `seq.block_table`: row `rows[seq]` of `array` [max_sequences, max_blocks]; entries past a table are 0."""

    def __init__(self, max_sequences: int, max_blocks: int):
        self.array: I32 = np.zeros((max_sequences, max_blocks), np.int32)
        self.rows: dict[Sequence, int] = {}
        self._unused = list(range(max_sequences - 1, -1, -1))

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self.rows

    def add(self, seq: Sequence, blocks: list[int]) -> None:
        assert seq not in self.rows and not seq.block_table
        seq.block_table = blocks
        self.rows[seq] = row = self._unused.pop()
        self.array[row, : len(blocks)] = blocks

    def append(self, seq: Sequence, block: int) -> None:
        self.array[self.rows[seq], len(seq.block_table)] = block
        seq.block_table.append(block)

    def replace(self, seq: Sequence, index: int, block: int) -> None:
        self.array[self.rows[seq], index] = block
        seq.block_table[index] = block

    def remove(self, seq: Sequence) -> list[int]:
        """Empties the sequence's table and returns what it held."""
        row = self.rows.pop(seq)
        self._unused.append(row)
        self.array[row] = 0
        blocks, seq.block_table = seq.block_table, []
        return blocks

    def check_integrity(self) -> None:
        for seq, row in self.rows.items():
            size = len(seq.block_table)
            assert self.array[row, :size].tolist() == seq.block_table, "the array and the table disagree"
            assert not self.array[row, size:].any(), "entries past the table are not 0"
        assert len(self.rows) + len(self._unused) == len(self.array), "a row is lost"
