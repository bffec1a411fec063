"""Draws over many positions follow the intended distribution. Seeds are fixed, so these never fail by chance."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.sampling import rules

from .rows import arrays, sequence

DRAWS = 20_000


def follows(counts: np.ndarray, p: np.ndarray) -> bool:
    """Pearson's chi-squared test at a level of 1e-4 (critical value by Wilson and Hilferty's cube)."""
    live = p > 0
    expected = p[live] * counts.sum()
    statistic = ((counts[live] - expected) ** 2 / expected).sum()
    degrees = int(live.sum()) - 1
    spread = 2 / (9 * degrees)
    return not counts[~live].any() and statistic < degrees * (1 - spread + 3.719 * spread**0.5) ** 3


@pytest.mark.parametrize("seed", [0, 1, 2**63, 12345])
def test_uniform_fills_the_interval_evenly_along_positions(seed: int):
    u = rules.uniform(np.full(DRAWS, seed, np.uint64), np.arange(DRAWS))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert follows(counts, np.full(50, 1 / 50))


def test_uniform_fills_the_interval_evenly_along_seeds_and_jointly():
    seeds, zeros = np.arange(DRAWS, dtype=np.uint64), np.zeros(DRAWS, np.int64)
    here, there = rules.uniform(seeds, zeros), rules.uniform(seeds, zeros + 1)
    neighbour = rules.uniform(seeds + np.uint64(1), zeros)
    for other in (there, neighbour):
        counts = np.histogram2d(here, other, bins=8, range=((0, 1), (0, 1)))[0].ravel()
        assert follows(counts, np.full(64, 1 / 64))
        assert abs(np.corrcoef(here, other)[0, 1]) < 0.02


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"typical_p": 0.7}],
)
def test_sampled_tokens_follow_the_filtered_distribution(params: dict[str, float]):
    row = np.random.default_rng(7).normal(0, 1.5, (1, 20)).astype(np.float32)
    made = arrays(sequence([0], seed=3, vocab=20, **params), vocab=20)
    p = rules.filter_probs(row, made)[0].astype(np.float64)
    w = rules.weights(row[0], 0, made)
    us = rules.uniform(np.full(DRAWS, 3, np.uint64), np.arange(DRAWS))
    counts = np.bincount([rules.draw(w, float(u)) for u in us], minlength=20)
    assert follows(counts, p)
    assert not follows(counts, np.roll(p, 1))


def test_the_answers_of_one_request_are_independent():
    row = np.zeros((1, 8), np.float32)
    made = [arrays(sequence([0], seed=9, index=i, vocab=8), vocab=8) for i in range(500)]
    counts = np.bincount([rules.sample(row, each, np.array([-1], np.int32))[0] for each in made], minlength=8)
    assert follows(counts, np.full(8, 1 / 8))
