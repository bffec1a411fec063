from __future__ import annotations

import numpy as np
import pytest

from octavo.config import CacheConfig
from octavo.kv.paged import PUT_OFF, PagedCache
from octavo.sampling_params import SamplingParams
from octavo.types import Request, Sequence


def sequence(tokens: list[int], salt: str = "", **params: int) -> Sequence:
    request = Request("r", tokens, SamplingParams(**params), cache_salt=salt)  # type: ignore[arg-type]
    return Sequence(request, 0, list(tokens), len(tokens))


def cache(blocks: int = 8, prefix: bool = True) -> PagedCache:
    return PagedCache(CacheConfig(blocks, 4), max_sequences=4, max_blocks=max(8, blocks), prefix_caching=prefix)


def compute(cache: PagedCache, seq: Sequence, upto: int) -> None:
    start, seq.num_computed_tokens, seq.kv_length = seq.kv_length, upto, upto
    cache.commit(seq, start)
    cache.check_integrity()


def test_a_full_hit_still_computes_the_last_token() -> None:
    paged = cache()
    first = sequence(list(range(8)))
    assert paged.admit(first, 0)
    compute(paged, first, 8)
    second = sequence(list(range(8)))
    assert paged.admit(second, 0)
    assert second.num_computed_tokens == 4
    assert second.block_table[0] == first.block_table[0] and second.block_table[1] != first.block_table[1]
    paged.check_integrity()


def test_only_computed_full_blocks_are_shared() -> None:
    paged = cache()
    first = sequence(list(range(12)))
    assert paged.admit(first, 0)
    for computed, hits in ((0, 0), (3, 0), (4, 4), (7, 4), (8, 8)):
        compute(paged, first, computed)
        second = sequence(list(range(12)))
        assert paged.admit(second, 0)
        assert second.num_computed_tokens == hits
        paged.free(second)


def test_a_freed_prefix_is_found_until_its_blocks_are_needed() -> None:
    paged = cache(blocks=4)
    first = sequence(list(range(9)))
    assert paged.admit(first, 0)
    compute(paged, first, 8)
    paged.free(first)
    assert paged.usage == 0 and paged.pool.num_cached == 2
    again = sequence(list(range(9)))
    assert paged.admit(again, 0) and again.num_computed_tokens == 8
    paged.free(again)
    other = sequence([50] * 16)
    assert paged.admit(other, 0)
    paged.free(other)
    late = sequence(list(range(9)))
    assert paged.admit(late, 0) and late.num_computed_tokens == 0
    paged.check_integrity()


def test_salts_do_not_meet() -> None:
    paged = cache()
    for salt, hits in (("a", 0), ("b", 0), ("a", 4), ("", 0)):
        seq = sequence(list(range(5)), salt)
        assert paged.admit(seq, 0) and seq.num_computed_tokens == hits
        compute(paged, seq, 5)
        paged.free(seq)


def test_admission_counts_what_hits_take_out_of_the_cache() -> None:
    paged = cache(blocks=3)
    first = sequence(list(range(9)))
    assert paged.admit(first, 0)
    compute(paged, first, 8)
    paged.free(first)
    holder = sequence([70])
    assert paged.admit(holder, 0)
    assert not paged.admit(sequence(list(range(9))), 0)  # two hits revived and one new: 3 of 2
    assert not paged.admit(sequence([1]), 2)
    assert paged.admit(sequence([1]), 1)
    paged.check_integrity()


def test_growing_a_fork_copies_its_partial_block_once() -> None:
    paged = cache()
    parent, child = sequence(list(range(6))), sequence(list(range(6)))
    assert paged.admit(parent, 0)
    compute(paged, parent, 6)
    assert paged.fork(parent, child)
    shared = parent.block_table[1]
    assert child.block_table == parent.block_table and child.num_computed_tokens == 6
    assert paged.grow(parent, 1)
    transfers = paged.transfers.take()
    assert transfers is not None and transfers.copies.tolist() == [[shared, parent.block_table[1]]]
    assert parent.block_table[1] != shared
    assert paged.grow(child, 1)
    assert paged.transfers.take() is None and child.block_table[1] == shared  # the last holder writes in place
    assert np.array_equal(paged.tables.array[paged.tables.rows[parent], :2], parent.block_table)
    paged.check_integrity()
    paged.free(parent)
    paged.free(child)
    assert paged.usage == 0


def test_grow_changes_nothing_when_it_fails() -> None:
    paged = cache(blocks=2)
    parent, child = sequence(list(range(6))), sequence(list(range(6)))
    assert paged.admit(parent, 0)
    compute(paged, parent, 6)
    paged.fork(parent, child)
    table = list(child.block_table)
    assert not paged.grow(child, 1)
    assert child.block_table == table and paged.transfers.take() is None
    paged.check_integrity()


def test_prompt_logprobs_take_no_hits_but_what_was_scored() -> None:
    paged = cache()
    first = sequence(list(range(10)))
    assert paged.admit(first, 0)
    compute(paged, first, 10)
    scoring = sequence(list(range(10)), prompt_logprobs=0)
    assert paged.admit(scoring, 0) and scoring.num_computed_tokens == 0
    paged.free(scoring)
    scoring.num_scored_tokens = 5
    assert paged.admit(scoring, 0) and scoring.num_computed_tokens == 4


def test_discarded_blocks_are_never_found() -> None:
    paged = cache()
    bad = sequence(list(range(9)))
    assert paged.admit(bad, 0)
    compute(paged, bad, 8)
    paged.discard(bad)
    assert paged.pool.num_cached == 0
    good = sequence(list(range(9)))
    assert paged.admit(good, 0) and good.num_computed_tokens == 0
    paged.check_integrity()


def test_full_blocks_are_named_when_that_matters() -> None:
    paged = cache(blocks=40)

    def named(seq: Sequence) -> int:
        return sum(paged.pool.lookup(key) is not None for key in seq.block_keys)

    first = sequence(list(range(4 * PUT_OFF + 9)))
    assert paged.admit(first, 0) and len(first.block_keys) == PUT_OFF + 2
    compute(paged, first, 8)
    assert named(first) == 0, "nobody has asked yet"
    second = sequence(list(range(9)))
    assert paged.admit(second, 0) and second.num_computed_tokens == 8
    compute(paged, first, 4 * (PUT_OFF + 1))
    assert named(first) == 2
    compute(paged, first, 4 * (PUT_OFF + 2))
    assert named(first) == PUT_OFF + 2, "it is not put off for ever"
    for seq, let_go, names in ((sequence([90] * 5), paged.free, 1), (sequence([80] * 5), paged.discard, 0)):
        assert paged.admit(seq, 0)
        compute(paged, seq, 4)
        let_go(seq)
        assert named(seq) == names
    paged.check_integrity()


def test_prefix_caching_off() -> None:
    paged = cache(prefix=False)
    for _ in range(2):
        seq = sequence(list(range(9)))
        assert paged.admit(seq, 0) and seq.num_computed_tokens == 0
        compute(paged, seq, 9)
        paged.free(seq)
    assert paged.pool.num_cached == 0


def test_integrity_check_sees_a_wrong_table() -> None:
    paged = cache()
    seq = sequence(list(range(9)))
    assert paged.admit(seq, 0)
    seq.block_table[1] = 7
    with pytest.raises(AssertionError):
        paged.check_integrity()
