"""`build`: the sampler's arrays have the settings of each row, and unchanged rows cost almost nothing."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.sampling import rules
from octavo.sampling.arrays import build
from octavo.types import SamplingArrays

from .rows import arrays, sequence

V = 100


def penalties(made: SamplingArrays, row: int = 0) -> dict[int, int]:
    span = slice(made.penalty_starts[row], made.penalty_starts[row + 1])
    return dict(zip(made.penalty_tokens[span].tolist(), made.penalty_counts[span].tolist(), strict=True))


def bans(made: SamplingArrays, row: int = 0) -> set[int]:
    span = slice(made.bias_starts[row], made.bias_starts[row + 1])
    return set(made.bias_tokens[span][np.isneginf(made.bias_values[span])].tolist())


def test_plain_greedy_rows_share_one_read_only_answer():
    seqs = [sequence([1], temperature=0.0) for _ in range(3)]
    made = arrays(*seqs)
    assert made.plain_greedy
    assert made is arrays(*seqs[::-1])
    assert made.temperature.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        made.temperature[0] = 1


def test_no_rows_is_a_batch_too():
    made = build([], V)
    assert made.plain_greedy and made.temperature.shape == (0,) and made.bias_starts.tolist() == [0]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.5},
        {"temperature": 0.0, "presence_penalty": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.2},
        {"temperature": 0.0, "logit_bias": {1: 1.0}},
        {"temperature": 0.0, "allowed_token_ids": [1]},
        {"temperature": 0.0, "min_tokens": 1, "stop_token_ids": [1]},
        {"temperature": 0.0, "bad": ((1,),)},
    ],
)
def test_any_edit_makes_it_not_plain(params: dict[str, Any]):
    made = arrays(sequence([1], temperature=0.0), sequence([1], **params))
    assert not made.plain_greedy


def test_every_setting_reaches_its_row():
    seq = sequence(
        [1],
        seed=7,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.25,
        typical_p=0.75,
        repetition_penalty=1.5,
        presence_penalty=0.125,
        frequency_penalty=-0.5,
    )
    made = arrays(sequence([1], temperature=0.0), seq)
    columns = (made.temperature, made.top_k, made.min_p, made.typical_p, made.repetition, made.presence, made.frequency)
    assert [column.tolist() for column in columns] == [
        *([0, 0.5], [0, 3], [0, 0.25], [1, 0.75]),
        *([1, 1.5], [0, 0.125], [0, -0.5]),
    ]
    assert made.top_p[1] == np.float32(0.9)
    assert made.seeds.tolist() == [0, 7]
    assert made.positions.tolist() == [1, 1]
    assert all(column.flags.c_contiguous for column in columns)


def test_top_k_off_or_beyond_the_vocabulary():
    made = arrays(sequence([1], top_k=-1), sequence([1], top_k=2**40))
    assert made.top_k.tolist() == [0, V]


def test_a_temperature_that_would_overflow_is_greedy():
    assert arrays(sequence([1], temperature=1e-30)).plain_greedy


def test_negative_seeds_and_sibling_seeds_are_64_bits():
    made = arrays(sequence([1], seed=-1), sequence([1], seed=-1, index=1), sequence([1], seed=-1, index=2))
    assert made.seeds[0] == 2**64 - 1
    assert len(set(made.seeds.tolist())) == 3


def test_min_tokens_bans_every_end_until_it_is_reached():
    for done, expected in [(0, {2, 5}), (1, {2, 5}), (2, set())]:
        seq = sequence([1], [9] * done, temperature=0.0, min_tokens=2, eos=(2,), stop_token_ids=[5])
        made = arrays(seq)
        assert bans(made) == expected
        assert made.plain_greedy == (not expected)


def test_min_tokens_leaves_an_ignored_end_alone():
    assert bans(arrays(sequence([1], min_tokens=2, eos=(2,), ignore_eos=True))) == set()


def test_bias_and_bans_add_up():
    made = arrays(sequence([1], min_tokens=1, eos=(2,), logit_bias={2: 5.0, 3: -1.0}))
    edited = rules.apply_edits(np.zeros((1, V), np.float32), made)[0]
    assert edited[2] == -np.inf and edited[3] == -1 and edited[4] == 0


def test_allowed_tokens_become_one_mask_a_sequence():
    free, bound = sequence([1]), sequence([1], allowed_token_ids=[0, 40, 99])
    made = build([(bound, 1), (free, 1), (bound, 2)], V)
    assert made.mask_rows.tolist() == [0, -1, 0]
    assert made.masks.shape == (1, 4) and made.masks.dtype == np.uint32
    assert np.flatnonzero(rules.unpack(made.masks[0], V)).tolist() == [0, 40, 99]


def test_bad_words_ban_their_last_token_once_the_rest_is_written():
    bad = ((7,), (1, 2, 3), (2, 4))
    seq = sequence([1, 2], bad=bad, drafts=[1, 2])
    assert bans(arrays(seq)) == {7}, "the prompt does not count"
    seq.token_ids += [1]
    assert bans(arrays(seq)) == {7}
    seq.token_ids += [2]
    assert bans(arrays(seq)) == {7, 3, 4}
    made = build([(seq, 4), (seq, 5), (seq, 6)], V)
    assert [bans(made, row) for row in range(3)] == [{7, 3, 4}, {7}, {7, 3, 4}], "drafts continue the history"


def test_counts_grow_with_the_sequence_and_with_its_drafts():
    seq = sequence([1, 2], [2], repetition_penalty=1.5, drafts=[3, 2, 3])
    assert penalties(arrays(seq)) == {1: 0, 2: 1}
    made = build([(seq, position) for position in range(3, 7)], V)
    expected = [{1: 0, 2: 1}, {1: 0, 2: 1, 3: 1}, {1: 0, 2: 2, 3: 1}, {1: 0, 2: 2, 3: 2}]
    assert [penalties(made, row) for row in range(4)] == expected
    seq.token_ids += [3]  # one draft accepted
    assert penalties(arrays(seq)) == {1: 0, 2: 1, 3: 1}


def test_rows_inside_the_prompt_are_scored_without_edits():
    seq = sequence([1, 2, 3], temperature=0.7, repetition_penalty=1.5, logit_bias={1: 1.0}, prompt_logprobs=0)
    made = build([(seq, 1), (seq, 2)], V)
    assert made.plain_greedy
    made = build([(seq, 2), (seq, 3)], V)
    assert made.temperature.tolist() == [0, np.float32(0.7)]
    assert penalties(made, 0) == {} and penalties(made, 1) == {1: 0, 2: 0, 3: 0}
    assert made.bias_starts.tolist() == [0, 0, 1]


@given(st.randoms(use_true_random=False), st.booleans())
def test_incremental_counts_equal_a_count_from_scratch(rng: random.Random, with_prompt: bool):
    params = {"repetition_penalty": 1.1} if with_prompt else {"presence_penalty": 0.5}
    prompt = [rng.randrange(V) for _ in range(rng.randrange(1, 9))]
    seq = sequence(prompt, **params)
    for _ in range(30):
        seq.token_ids += [rng.randrange(V) for _ in range(rng.randrange(4))]
        seq.drafts = [rng.randrange(V) for _ in range(rng.randrange(4))]
        position = rng.randint(len(prompt), len(seq.token_ids) + len(seq.drafts))
        output = (seq.token_ids + seq.drafts)[len(prompt) : position]
        expected = dict.fromkeys(prompt, 0) if with_prompt else {}
        assert penalties(build([(seq, position)], V)) == {**expected, **Counter(output)}


def test_arrays_of_an_earlier_step_do_not_change():
    seq = sequence([1], [2], presence_penalty=1.0)
    earlier = arrays(seq)
    seq.token_ids += [2, 3]
    arrays(seq)
    assert penalties(earlier) == {2: 1}
