"""The reference rules: their output is distributed as p, by a chi-squared test over a million draws per pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.spec.speedup import expected_speedup, expected_tokens
from tests.unit.spec import rules

DRAWS = 1_000_000
PART = 100_000
VOCAB = 6
PAIRS = 22


def pair(number: int, places: int = 1) -> tuple[rules.F64, rules.F64]:
    """(p, q), both [places, VOCAB]: from nearly equal to nearly disjoint, some with tokens that one never draws."""
    rng = np.random.default_rng(number)
    sharpness = 0.2 + 0.2 * (number % 11)
    p = np.exp(sharpness * rng.standard_normal((places, VOCAB)))
    q = np.exp(sharpness * rng.standard_normal((places, VOCAB)))
    if number % 4 == 1:
        p[:, number % VOCAB] = 0
    if number % 4 == 2:
        q[:, number % VOCAB] = 0
    if number % 7 == 3:
        q = p.copy()
    return p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)


def chi_squared_tail(counts: np.ndarray, p: rules.F64) -> float:
    """The probability of a deviation as large as this; by Wilson and Hilferty's normal approximation."""
    assert not counts[p == 0].any(), "a token of probability 0 was drawn"
    counts, p = counts[p > 0], p[p > 0]
    expected = counts.sum() * p
    degrees = len(p) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return 0.5 * math.erfc(z / math.sqrt(2))


TAIL = 1e-5  # of 66 tests; the seeds are fixed, so the result never changes by chance


@pytest.mark.parametrize("number", range(PAIRS))
def test_a_chain_s_tokens_are_distributed_as_p(number: int) -> None:
    p, q = pair(number, places=3)
    q = q[:2]
    rng = np.random.default_rng([number, 1])
    first, second = np.zeros(VOCAB), np.zeros((VOCAB, VOCAB))
    accepted_in_all = 0
    for _ in range(DRAWS // PART):
        drafts = np.stack([rules.draw(row, rng.random(PART)) for row in q], axis=1)
        accepted, final = rules.verify(p, q, drafts, rng)
        token = np.where(accepted >= 1, drafts[:, 0], final)
        first += np.bincount(token, minlength=VOCAB)
        reached = accepted >= 1
        next_token = np.where(accepted >= 2, drafts[:, 1], final)
        np.add.at(second, (token[reached], next_token[reached]), 1)
        accepted_in_all += int(reached.sum())
    assert chi_squared_tail(first, p[0]) > TAIL
    assert chi_squared_tail(second.sum(0), p[1]) > TAIL
    assert accepted_in_all / DRAWS == pytest.approx(rules.acceptance(p[0], q[0]), abs=4e-3)


@pytest.mark.parametrize("number", range(PAIRS))
def test_siblings_tried_in_turn_give_p(number: int) -> None:
    (p,), (q,) = pair(number)
    rng = np.random.default_rng([number, 2])
    width = 2 + number % 2
    counts, stood = np.zeros(VOCAB), 0
    for _ in range(DRAWS // PART):
        siblings = rules.draw_siblings(q, PART, width, rng)
        chosen, token = rules.verify_siblings(p, q, siblings, rng)
        counts += np.bincount(token, minlength=VOCAB)
        stood += int((chosen >= 0).sum())
    assert chi_squared_tail(counts, p) > TAIL
    assert stood / DRAWS > rules.acceptance(p, q) - 4e-3, "a second sibling cannot make it worse"


@pytest.mark.parametrize("number", range(0, PAIRS, 3))
def test_a_one_hot_draft_stands_with_its_own_probability(number: int) -> None:
    (p,), _ = pair(number)
    draft = int(p.argmax())
    q = np.eye(VOCAB)[draft]
    rng = np.random.default_rng([number, 3])
    accepted, final = rules.verify(np.stack([p, p]), q[None], np.full((DRAWS, 1), draft), rng)
    token = np.where(accepted == 1, draft, final)
    assert (accepted == 1).mean() == pytest.approx(p[draft], abs=3e-3)
    assert chi_squared_tail(np.bincount(token, minlength=VOCAB), p) > TAIL


@pytest.mark.parametrize("number", range(PAIRS))
def test_the_engine_s_rule_draws_p_itself_and_accepts_as_computed(number: int) -> None:
    (p,), (q,) = pair(number)
    u = np.random.default_rng([number, 4]).random(DRAWS)
    drawn, drafted = rules.draw(p, u), rules.draw(q, u)
    assert chi_squared_tail(np.bincount(drawn, minlength=VOCAB), p) > TAIL
    assert (drawn == drafted).mean() == pytest.approx(rules.coupled_acceptance(p, q), abs=3e-3)
    assert rules.coupled_acceptance(p, q) <= rules.acceptance(p, q) + 1e-12
    assert rules.coupled_acceptance(p, p) == pytest.approx(1)


def test_a_biased_rule_would_be_found_out() -> None:
    """Accepting whenever p >= q and dropping the rest, as some tutorials print."""
    (p,), (q,) = pair(8)
    rng = np.random.default_rng(5)
    drafts = rules.draw(q, rng.random(DRAWS))
    token = np.where(p[drafts] >= q[drafts], drafts, rules.draw(p, rng.random(DRAWS)))
    assert chi_squared_tail(np.bincount(token, minlength=VOCAB), p) < 1e-12


def test_expected_tokens_is_what_chains_give() -> None:
    rng = np.random.default_rng(6)
    for alpha, length in ((0.0, 3), (0.6, 4), (0.9, 8), (1.0, 5)):
        stands = rng.random((200_000, length)) < alpha
        tokens = 1 + np.cumprod(stands, axis=1).sum(1)
        assert tokens.mean() == pytest.approx(expected_tokens(alpha, length), abs=0.03)
    assert expected_speedup(1.0, 5, verify_cost=1.2) == pytest.approx(5)
    assert expected_speedup(0.8, 3, verify_cost=1.1, draft_cost=0.5) < 1.2
