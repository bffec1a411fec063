from __future__ import annotations

import pytest

from octavo.config import CacheConfig
from octavo.errors import CapacityError
from octavo.kv.contiguous import ContiguousCache
from octavo.sampling_params import SamplingParams
from octavo.types import Request, Sequence


def sequence() -> Sequence:
    return Sequence(Request("r", [1], SamplingParams()), 0, [1], 1)


def test_each_sequence_holds_a_region_of_consecutive_blocks() -> None:
    cache = ContiguousCache(CacheConfig(10, 4), max_sequences=4, max_blocks=3)
    seqs = [sequence() for _ in range(4)]
    assert [cache.admit(seq, keep_free=0) for seq in seqs] == [True, True, True, False]
    assert [seq.block_table for seq in seqs] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], []]
    assert cache.usage == 1 and cache.capacity == 12
    cache.check_integrity()
    cache.free(seqs[1])
    cache.free(seqs[3])
    assert cache.admit(seqs[3], keep_free=0) and seqs[3].block_table == [3, 4, 5]
    assert not cache.fork(seqs[0], sequence())
    cache.check_integrity()


def test_a_pool_smaller_than_one_sequence_is_refused() -> None:
    with pytest.raises(CapacityError, match="max_model_len"):
        ContiguousCache(CacheConfig(2, 4), max_sequences=1, max_blocks=3)
