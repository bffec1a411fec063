"""Moving blocks side by side: fewer gaps, and nothing else that anyone could see."""

from __future__ import annotations

import random

import pytest

from octavo.kv.compaction import MOST_MOVES, scattered
from octavo.sampling_params import SamplingParams
from tests.unit.control import Answers, RandomTrees, drain, engine, prompt, request

REQUESTS = [
    request(f"r{i}", prompt(10 + 7 * i, i % 5), SamplingParams(temperature=0, max_tokens=20 + i), arrival=float(i))
    for i in range(12)
]


def alone() -> Answers:
    return {key: answer for item in REQUESTS for key, answer in drain(engine(), [item]).items()}


ALONE = alone()


@pytest.mark.parametrize("blocks", [40, 64, 120])
@pytest.mark.parametrize("drafts", [False, True])
def test_no_answer_changes(blocks: int, drafts: bool) -> None:
    proposer = RandomTrees(ALONE, random.Random(1)) if drafts else None
    assert drain(engine(blocks=blocks, kv_compaction=True, proposer=proposer), REQUESTS) == ALONE


def test_blocks_come_to_lie_side_by_side_a_few_a_step() -> None:
    one = engine(blocks=120, kv_compaction=True, max_num_seqs=12)
    pool = one.cache.pool  # type: ignore[attr-defined]
    random.Random(2).shuffle(pool._free)
    (seq,) = one.add(request("a", prompt(100, 1), SamplingParams(temperature=0, max_tokens=25, ignore_eos=True)))
    seen = []
    while one.has_work:
        before = list(seq.block_table)
        one.step()
        one.cache.check_integrity()
        moved = sum(a != b for a, b in zip(before, seq.block_table, strict=False))
        assert moved <= MOST_MOVES
        if seq.block_table:
            seen.append(scattered([seq.block_table]))
    assert seen[0] > 0.8 and seen[-1] == 0.0


def test_a_moved_block_keeps_its_key() -> None:
    one = engine(blocks=60, kv_compaction=True)
    pool = one.cache.pool  # type: ignore[attr-defined]
    random.Random(2).shuffle(pool._free)
    drain(one, [request("a", prompt(60, 1), SamplingParams(temperature=0, max_tokens=12))])
    before = one.stats.prefix_hits
    drain(one, [request("b", prompt(60, 1), SamplingParams(temperature=0, max_tokens=12))])
    assert one.stats.prefix_hits - before == 56
