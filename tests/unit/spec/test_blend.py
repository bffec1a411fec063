"""Several guesses are blended into one draft."""

from __future__ import annotations

import random

import pytest

from octavo.spec.blend import blend
from octavo.spec.proposer import Guess


def test_the_best_guess_is_the_trunk_and_others_branch_off() -> None:
    both = blend([(Guess([1, 5, 6]), 0.5), (Guess([1, 2, 3]), 0.8)], trees=True)
    assert both.tokens == [1, 2, 3, 5, 6] and both.parents == [-1, 0, 1, 0, 3]
    assert both.odds == pytest.approx([0.8, 0.64, 0.512, 0.8 * 0.2 * 0.5, 0.8 * 0.2 * 0.25])


def test_without_trees_the_best_guess_alone() -> None:
    one = blend([(Guess([4, 4]), 0.1), (Guess([1, 2, 3]), 0.8)], trees=False)
    assert one.cut([0, 1]) == Guess([1, 2])
    assert blend([], trees=True).tokens == []


def test_odds_are_those_of_a_simulation() -> None:
    rng, count = random.Random(0), 40_000
    drawn = blend([(Guess([1, 1]), 0.7), (Guess([2]), 0.5)], trees=True)
    hits = [0, 0, 0]
    for _ in range(count):
        first = rng.random() < 0.7
        hits[0] += first
        hits[1] += first and rng.random() < 0.7
        hits[2] += not first and rng.random() < 0.5
    assert [hit / count for hit in hits] == pytest.approx(drawn.odds, abs=0.01)


def test_any_prefix_of_falling_odds_is_a_tree() -> None:
    rng = random.Random(1)
    for _ in range(100):
        guesses = [
            (Guess([rng.randrange(3) for _ in range(rng.randrange(1, 6))]), rng.choice([0.0, 0.3, 0.9, 1.0]))
            for _ in range(3)
        ]
        drawn = blend(guesses, trees=True)
        order = sorted(range(len(drawn.odds)), key=lambda node: -drawn.odds[node])
        for size in range(len(order) + 1):
            kept = order[:size]
            assert all(drawn.parents[node] in (-1, *kept) for node in kept)
            guess = drawn.cut(kept)
            assert len(guess.tokens) == size
            assert guess.parents is None or all(parent < i for i, parent in enumerate(guess.parents))
