"""The slot mapping: the only place that maps an index of a sequence's KV to a slot."""

from __future__ import annotations

import random

import numpy as np
import pytest

from octavo.kv.tables import BlockTables
from octavo.sampling_params import SamplingParams
from octavo.types import Request, Sequence

SIZE = 4


def sequence(tables: BlockTables, blocks: list[int], computed: int, kv_length: int | None = None) -> Sequence:
    seq = Sequence(Request("r", [1], SamplingParams()), 0, [1], 1, num_computed_tokens=computed)
    tables.add(seq, blocks, computed if kv_length is None else kv_length)
    return seq


def test_a_slot_is_its_block_and_its_offset() -> None:
    tables = BlockTables(4, 8, SIZE)
    seq, other = sequence(tables, [5, 2, 7], 0), sequence(tables, [1, 3], 0)
    assert [tables.slot(seq, index) for index in (0, 3, 4, 10)] == [20, 23, 8, 30]
    rows = np.array([tables.rows[seq], tables.rows[other], tables.rows[seq]], np.int32)
    assert tables.slots(rows, np.array([9, 5, 0], np.int32)).tolist() == [29, 13, 20]


@pytest.mark.parametrize("seed", range(20))
def test_a_placement_says_what_one_token_at_a_time_would(seed: int) -> None:
    rng = random.Random(seed)
    tables = BlockTables(6, 8, SIZE)
    blocks = rng.sample(range(100), 48)
    seqs = [sequence(tables, [blocks.pop() for _ in range(8)], rng.randint(0, 20)) for _ in range(6)]
    seqs = rng.sample(seqs, rng.randint(1, 6))
    counts = [1 if seed % 3 == 0 else rng.randint(1, 8) for _ in seqs]
    ahead = None if seed % 2 else [rng.randint(0, 3) for _ in seqs]
    placed = tables.place(seqs, counts, ahead)
    tokens = [
        (seq, seq.num_computed_tokens + skipped + place)
        for seq, count, skipped in zip(seqs, counts, ahead or [0] * 6, strict=False)
        for place in range(count)
    ]
    assert placed.positions.tolist() == [position for _, position in tokens]
    assert placed.slot_mapping.tolist() == [tables.slot(seq, position) for seq, position in tokens]
    assert placed.query_starts.tolist() == [0, *np.cumsum(counts)]
    ends = np.cumsum(counts) - 1
    assert placed.context_lens.tolist() == [tokens[end][1] + 1 for end in ends]
    width = -(-max(placed.context_lens.tolist()) // SIZE)
    assert placed.block_tables.tolist() == [seq.block_table[:width] for seq in seqs]
    for array in placed:
        assert array.dtype == np.int32 and array.flags.c_contiguous and not np.shares_memory(array, tables.array)


def test_positions_go_on_where_kv_was_dropped() -> None:
    """Eviction inside a sequence: 14 tokens have been run, and the KV of 6 is left."""
    tables = BlockTables(2, 8, SIZE)
    short, whole = sequence(tables, [5, 2], 14, kv_length=6), sequence(tables, [1, 3], 5)
    placed = tables.place([short, whole], [2, 1])
    assert placed.positions.tolist() == [14, 15, 5]
    assert placed.slot_mapping.tolist() == [10, 11, 13]
    assert placed.context_lens.tolist() == [8, 6]
    assert placed.block_tables.tolist() == [[5, 2], [1, 3]]
    tables.check_integrity()
    tables.remove(short)
    assert (short.kv_length, short.block_table) == (0, [])
    assert short.num_computed_tokens == 14, "what becomes of the sequence is not the table's business"
