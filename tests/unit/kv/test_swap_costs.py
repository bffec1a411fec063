"""`auto` under injected costs: never more than 5 % slower than the better way."""

from __future__ import annotations

import random

import pytest

from octavo.kv.swap_costs import EVERY, Line, SwapCosts

SIZE = 16
# seconds: before a load's first block, of a block, of a prompt token
COSTS = {
    "a fast disk and a slow model": (0.002, 0.001, 0.007),
    "a slow disk and a small model": (0.01, 0.02, 0.0008),
    "about equal": (0.02, 0.012, 0.0008),
    "a long wait": (0.4, 0.001, 0.0008),
}


@pytest.mark.parametrize("name", COSTS)
def test_the_choice_is_within_5_percent_of_the_better_for_every_length(name: str) -> None:
    wait, block, token = COSTS[name]
    rng, costs = random.Random(1), SwapCosts(SIZE)
    for _ in range(60):
        blocks, tokens = rng.randint(1, 256), rng.randint(1, 512)
        costs.loaded(blocks, wait + block * blocks)
        costs.computed(tokens, token * tokens)
    choices = []
    for blocks in range(1, 257):
        ways = {True: wait + block * blocks, False: token * SIZE * blocks}
        choices.append(costs.load_is_faster(blocks))
        assert ways[choices[-1]] <= 1.05 * min(ways.values()), blocks
    assert choices == sorted(choices), "short ones are computed, long ones loaded: one change at most"
    assert (True in choices) == (name != "a slow disk and a small model")


def test_it_follows_a_disk_that_becomes_slow_and_recovers() -> None:
    costs = SwapCosts(SIZE)
    costs.computed(512, 0.5)
    assert costs.load_is_faster(10), "nothing is known of loads: try"
    for seconds, faster in ((0.001, True), (1.0, False), (0.001, True)):
        for blocks in range(1, 80):
            costs.loaded(blocks, seconds * blocks)
        assert costs.load_is_faster(10) == faster


def test_the_slower_way_is_tried_now_and_then() -> None:
    costs = SwapCosts(SIZE)
    costs.computed(512, 0.5)
    costs.loaded(4, 100.0)
    assert sum(costs.choose_load(4) for _ in range(10 * EVERY)) == 10


def test_a_line_through_points_in_one_place_starts_at_0() -> None:
    line = Line()
    for _ in range(5):
        line.observe(8, 4.0)
    assert line.at(16) == pytest.approx(8.0)
    line.observe(16, 3.0)
    assert line.at(100) >= 0
