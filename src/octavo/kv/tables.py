"""The block tables of all sequences as one array, so a step converts no Python lists.

Only this module maps an index of a sequence's KV to a slot.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np

from octavo.types import I32, Sequence


class Placement(NamedTuple):
    """Positions and slots of a batch's T query tokens of S sequences: the fields of `Batch` with these names."""

    positions: I32  # [T]
    slot_mapping: I32  # [T]
    query_starts: I32  # [S+1]
    context_lens: I32  # [S]
    block_tables: I32  # [S, W]


class BlockTables:
    """Mirrors `seq.block_table`: row `rows[seq]` of `array` [max_sequences, max_blocks]; entries past a table are 0."""

    def __init__(self, max_sequences: int, max_blocks: int, block_size: int):
        self.array: I32 = np.zeros((max_sequences, max_blocks), np.int32)
        self.rows: dict[Sequence, int] = {}
        self._block_size = block_size
        self._shift = block_size.bit_length() - 1
        assert block_size == 1 << self._shift, "config.check has seen to it"
        self._unused = list(range(max_sequences - 1, -1, -1))
        self.most_slots = max_blocks * block_size  # of one sequence

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self.rows

    def add(self, seq: Sequence, blocks: list[int], kv_length: int = 0) -> None:
        """kv_length: filled slots of these blocks."""
        assert seq not in self.rows and not seq.block_table
        seq.block_table, seq.kv_length = blocks, kv_length
        self.rows[seq] = row = self._unused.pop()
        self.array[row, : len(blocks)] = blocks

    def append(self, seq: Sequence, block: int) -> None:
        self.array[self.rows[seq], len(seq.block_table)] = block
        seq.block_table.append(block)

    def replace(self, seq: Sequence, index: int, block: int) -> None:
        self.array[self.rows[seq], index] = block
        seq.block_table[index] = block

    def cut(self, seq: Sequence, first: int, count: int) -> list[int]:
        """Removes `count` full blocks from entry `first` of the table on, and returns them. The rest moves up."""
        row, size = self.rows[seq], len(seq.block_table)
        blocks = seq.block_table[first : first + count]
        del seq.block_table[first : first + count]
        self.array[row, first : size - count] = seq.block_table[first:]
        self.array[row, size - count : size] = 0
        seq.kv_length -= count * self._block_size
        return blocks

    def remove(self, seq: Sequence) -> list[int]:
        """Removes the sequence's table and returns its blocks."""
        row = self.rows.pop(seq)
        self._unused.append(row)
        self.array[row] = 0
        blocks, seq.block_table, seq.kv_length = seq.block_table, [], 0
        return blocks

    def slot(self, seq: Sequence, index: int) -> int:
        """The slot of entry `index` of the sequence's KV."""
        return seq.block_table[index // self._block_size] * self._block_size + index % self._block_size

    def slots(self, rows: I32, indices: I32) -> I32:
        """[n]: the slot of entry indices[i] of the sequence in row rows[i] of `array`."""
        starts: I32 = self.array[rows, indices >> self._shift] << self._shift
        return starts + (indices & (self._block_size - 1))

    def gather(self, rows: I32, longest: int) -> I32:
        """[S, W]: a copy of these rows, wide enough for contexts of up to `longest` tokens."""
        return self.array[rows, : -(-longest // self._block_size)]

    def place(self, sequences: Many[Sequence], counts: list[int], ahead: list[int] | None = None) -> Placement:
        """Places the next counts[i] tokens of each sequence, starting ahead[i] tokens later if `ahead` is given."""
        fields = [*counts, *(ahead or [0] * len(counts))]
        fields += [seq.num_computed_tokens for seq in sequences]
        fields += [seq.kv_length for seq in sequences]
        fields += [self.rows[seq] for seq in sequences]
        # one conversion is cheaper than five
        sizes, skipped, computed, filled, rows = np.array(fields, np.int32).reshape(5, -1)
        computed, filled = computed + skipped, filled + skipped
        contexts = filled + sizes
        starts = np.arange(len(counts) + 1, dtype=np.int32)
        positions, indices, owners = computed, filled, rows  # enough when each sequence has one token
        if sum(counts) > len(counts):
            owner = starts[:-1].repeat(sizes)
            sizes.cumsum(out=starts[1:])
            within = np.arange(starts[-1], dtype=np.int32) - starts[owner]  # a token's place among its sequence's
            positions, indices, owners = computed[owner] + within, filled[owner] + within, rows[owner]
        tables = self.gather(rows, max(contexts.tolist()))
        return Placement(positions, self.slots(owners, indices), starts, contexts, tables)

    def check_integrity(self) -> None:
        for seq, row in self.rows.items():
            size = len(seq.block_table)
            assert self.array[row, :size].tolist() == seq.block_table, "the array and the table disagree"
            assert not self.array[row, size:].any(), "entries past the table are not 0"
            assert seq.kv_length <= size * self._block_size, "there is more KV than blocks"
        assert len(self.rows) + len(self._unused) == len(self.array), "a row is lost"
