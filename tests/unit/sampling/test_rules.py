"""The pipeline on logits small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as np_arrays

from octavo.sampling import rules
from octavo.types import F32, SamplingArrays

from .rows import arrays, logits, sequence

LOG = np.log(np.array([[0.4, 0.3, 0.15, 0.1, 0.05]], np.float32))


def kept(row: F32, **params: object) -> list[int]:
    """Token ids that survive the filters."""
    seq = sequence([0], **({"temperature": 1.0} | params), vocab=row.shape[1])
    return np.flatnonzero(rules.filter_probs(row, arrays(seq, vocab=row.shape[1]))[0]).tolist()


def pick(row: F32, made: SamplingArrays) -> int:
    return int(rules.sample(row, made, np.array([-1], np.int32))[0])


def test_greedy_takes_the_largest_and_of_equals_the_lowest_id():
    assert pick(logits(1, 3, 3, 2), arrays(sequence([0], temperature=0, vocab=4), vocab=4)) == 1


def test_a_target_is_scored_and_not_sampled():
    made = arrays(sequence([0], temperature=0, vocab=4), vocab=4)
    assert rules.sample(logits(1, 3, 3, 2), made, np.array([3], np.int32)).tolist() == [3]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_k": -1}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.65}, [0, 1]),  # 0.4 and 0.7: the second is what reaches 0.65
        ({"top_p": 0.75}, [0, 1, 2]),
        ({"top_p": 1e-6}, [0]),
        ({"min_p": 0.3}, [0, 1, 2]),  # at least 0.12
        ({"min_p": 1.0}, [0]),
        ({"top_k": 2, "top_p": 0.56}, [0]),  # renormalised by top_k first: 0.571
        ({"top_k": 2, "top_p": 0.58}, [0, 1]),
        ({"min_p": 0.5, "top_p": 0.56}, [0]),  # min_p before top_p
        ({"temperature": 0.0, "top_p": 0.9}, [0]),
        ({"temperature": 50.0, "top_p": 0.55}, [0, 1, 2]),  # the filters see the tempered distribution
    ],
)
def test_filters_keep(params: dict[str, float], expected: list[int]):
    assert kept(LOG, **params) == expected


def test_equal_probabilities_at_a_boundary_keep_the_lower_ids():
    row = logits(1, 2, 2, 2, 1)
    assert kept(row, top_k=2) == [1, 2]
    assert kept(row, top_p=0.5) == [1, 2]


def test_typical_keeps_the_surprise_nearest_the_entropy():
    # H = 1.392 nats; -log p = 0.916, 1.204, 1.897, 2.303, 2.996; so by distance from H the order is 1, 0, 2, 3, 4
    assert kept(LOG, typical_p=0.2) == [1]
    assert kept(LOG, typical_p=0.4) == [0, 1]
    assert kept(LOG, typical_p=0.75) == [0, 1, 2]
    # of 0.6, 0.3, 0.1 (H = 0.898) the likeliest is not the most typical, but min_p leaves it alone: H = 0
    assert kept(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), typical_p=0.2, min_p=0.9) == [0]


def test_weights_that_float32_cannot_hold_exactly_are_nothing():
    assert kept(logits(0, -86.9, -87.1, -np.inf)) == [0, 1]


def test_probabilities_are_the_softmax_at_that_temperature():
    made = arrays(sequence([0], temperature=0.5, vocab=5), vocab=5)
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) ** 2
    assert rules.filter_probs(LOG, made)[0] == pytest.approx(expected / expected.sum(), rel=1e-5)


def test_penalties_follow_their_formulas():
    seq = sequence(
        [0, 1], [1, 2, 2], vocab=5, repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, temperature=0
    )
    edited = rules.apply_edits(logits(4, -4, 4, 4, -4), arrays(seq, vocab=5))[0]
    # 0: in the prompt only; 1: once in the output; 2: twice; 3 and 4: unseen
    assert edited.tolist() == [2, -8 - 0.5 - 0.25, 2 - 1.0 - 0.25, 4, -4]


def test_penalties_without_repetition_ignore_the_prompt():
    seq = sequence([0, 1], [1], vocab=3, presence_penalty=1.0)
    assert rules.apply_edits(logits(1, 1, 1), arrays(seq, vocab=3))[0].tolist() == [1, 0, 1]


def test_mask_bias_and_bans_come_before_the_penalties():
    seq = sequence([0], [2], vocab=4, allowed_token_ids=[1, 2], logit_bias={2: 6.0}, repetition_penalty=2.0)
    assert rules.apply_edits(logits(9, 1, -2, 9), arrays(seq, vocab=4))[0].tolist() == [-np.inf, 1, 2, -np.inf]


def test_rows_without_edits_are_not_copied():
    row = logits(1, 2)
    assert rules.apply_edits(row, arrays(sequence([0], vocab=2), vocab=2)) is row


def test_mask_packs_and_unpacks_over_word_borders():
    allowed = np.array([0, 31, 32, 63, 64, 69], np.int32)
    words = rules.pack(allowed, 70)
    assert words.shape == (3,)
    assert np.flatnonzero(rules.unpack(words, 70)).tolist() == allowed.tolist()


def test_rows_that_offer_no_token_are_not_finite():
    rows = np.array([[0, np.nan], [-np.inf, -np.inf], [np.inf, 0], [-np.inf, 0], [1, 2]], np.float32)
    assert rules.finite(rows).tolist() == [False, False, False, True, True]


def test_a_row_whose_tokens_are_all_banned_is_reported_and_harms_no_other():
    banned = sequence([0], vocab=3, allowed_token_ids=[1], min_tokens=1, stop_token_ids=[1])
    fine = sequence([0], vocab=3, temperature=0)
    made = arrays(banned, fine, vocab=3)
    rows = np.array([[1, 2, 3], [1, 2, 3]], np.float32)
    assert rules.finite(rules.apply_edits(rows, made)).tolist() == [False, True]
    assert rules.sample(rows, made, np.full(2, -1, np.int32)).tolist() == [0, 2]


def test_logprobs_ranks_and_top_agree():
    row = logits(1, 3, 3, 2)
    values = rules.logprobs(row)
    assert np.exp(values).sum() == pytest.approx(1)
    assert values[0, 1] == pytest.approx(3 - np.log(np.exp([1, 3, 3, 2]).sum()))
    assert [int(rules.ranks(row, np.array([i], np.int32))[0]) for i in range(4)] == [4, 1, 2, 3]
    ids, tops = rules.top(values, 3)
    assert ids.tolist() == [[1, 2, 3]]
    assert tops.tolist() == [[values[0, 1], values[0, 2], values[0, 3]]]


def test_logprobs_of_banned_tokens_are_minus_infinity_and_the_rest_is_finite():
    values = rules.logprobs(logits(-np.inf, 0, 0))
    assert values[0].tolist() == [-np.inf, np.float32(-np.log(2)), np.float32(-np.log(2))]


def test_draw_inverts_the_cumulative_distribution_in_id_order():
    w = np.array([0, 0.25, 0, 0.5, 0.25, 0], np.float32)
    chosen = [rules.draw(w, u) for u in (0.0, 0.24, 0.25, 0.74, 0.75, 0.9999999)]
    assert chosen == [1, 1, 3, 3, 4, 4]


def test_uniform_is_the_documented_formula():
    """Written out with Python's integers: what a twin in another language must give."""
    mask = (1 << 64) - 1

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    gamma = 0x9E3779B97F4A7C15
    pairs = [(0, 0), (1, 0), (0, 1), (42, 4095), (mask, 2**31)]
    expected = [(mix((mix((s + gamma) & mask) + (p + 1) * gamma) & mask) >> 40) / 2**24 for s, p in pairs]
    seeds, positions = np.array([s for s, _ in pairs], np.uint64), np.array([p for _, p in pairs], np.int64)
    got = rules.uniform(seeds, positions)
    assert got.dtype == np.float32
    assert got.tolist() == expected


finite_rows = np_arrays(np.float32, (3, 12), elements=st.floats(-30, 30, width=32))
settings = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_k": st.integers(0, 14),
        "top_p": st.sampled_from([0.1, 0.5, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5]),
        "typical_p": st.sampled_from([0.2, 0.9, 1.0]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "logit_bias": st.dictionaries(st.integers(0, 11), st.floats(-100, 100, width=32), max_size=3),
    }
)


@given(finite_rows, st.lists(settings, min_size=3, max_size=3), st.integers(0, 2**64 - 1))
def test_a_row_is_the_same_alone_and_among_others(rows: F32, params: list[dict[str, object]], seed: int):
    sequences = [sequence([1, 2], [3, 3], seed=seed, vocab=12, **each) for each in params]
    together = arrays(*sequences, vocab=12)
    targets = np.full(3, -1, np.int32)
    probs = rules.filter_probs(rules.apply_edits(rows, together), together)
    chosen = rules.sample(rows, together, targets)
    for i, seq in enumerate(sequences):
        alone, row = arrays(seq, vocab=12), rows[i : i + 1]
        assert np.array_equal(rules.filter_probs(rules.apply_edits(row, alone), alone)[0], probs[i])
        assert rules.sample(row, alone, targets[:1])[0] == chosen[i]


@given(finite_rows, settings)
def test_probabilities_sum_to_one_and_the_choice_has_some(rows: F32, params: dict[str, object]):
    made = arrays(*[sequence([1], seed=i, vocab=12, **params) for i in range(3)], vocab=12)
    probs = rules.filter_probs(rules.apply_edits(rows, made), made)
    assert probs.sum(axis=1) == pytest.approx(1, abs=1e-5)
    chosen = rules.sample(rows, made, np.full(3, -1, np.int32))
    assert (probs[np.arange(3), chosen] > 0).all()


@given(finite_rows, settings)
def test_what_is_kept_is_never_less_likely_than_what_is_cut(rows: F32, params: dict[str, object]):
    params = params | {"typical_p": 1.0, "temperature": 1.0}
    made = arrays(*[sequence([1], vocab=12, **params)] * 3, vocab=12)
    edited = rules.apply_edits(rows, made)
    for x, p in zip(edited, rules.filter_probs(edited, made), strict=True):
        z, cut = x - x.max(), p == 0
        assert not cut.any() or z[~cut].min() >= z[cut].max()
