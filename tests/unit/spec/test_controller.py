"""The controller in simulated worlds: given costs of steps and acceptance of drafts, and a simulated clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from octavo.sampling_params import SamplingParams
from octavo.scheduler import tree
from octavo.spec.acceptance import Acceptance, confidence_class
from octavo.spec.controller import Controller
from octavo.spec.costs import StepCosts
from octavo.spec.proposer import Guess
from octavo.spec.speedup import expected_tokens
from octavo.types import Request, ScheduledSequence, Sequence, Status, StepResult

STEPS = 600


class World:
    """cost: seconds of a step by its rows. noise: of the measured times, relative."""

    def __init__(self, cost: Callable[[int], float], noise: float = 0.05, seed: int = 0):
        self.cost, self.noise, self.now = cost, noise, 0.0
        self.random = random.Random(seed)

    def clock(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        seconds *= 1 + self.noise * self.random.gauss(0, 1)
        self.now += seconds
        return seconds


class Guesser:
    """Drafts tokens that are accepted with probability `alpha` each. often: share of the steps in which it has a guess.
    price: seconds per drafted token, if it runs a model."""

    def __init__(self, world: World, name: str, alpha: float, often: float = 1.0, price: float = 0.0):
        self.world, self.name, self.alpha, self.often, self.price = world, name, alpha, often, price
        self.runs_model = price > 0
        self.sure = 0 if price else 4

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        if self.price:
            self.world.spend(self.price * max(limits))
        pairs = zip(sequences, limits, strict=True)
        return [Guess(self._tokens(seq, limit) if self._has() else [], self.sure) for seq, limit in pairs]

    def _tokens(self, seq: Sequence, limit: int) -> list[int]:
        """The right token at each position is the position; a wrong token is specific to the guesser."""
        wrong = -len(self.name)
        return [len(seq.token_ids) + i if self._right() else wrong for i in range(limit)]

    def _has(self) -> bool:
        return self.world.random.random() < self.often

    def _right(self) -> bool:
        return self.world.random.random() < self.alpha


def accepted(seq: Sequence) -> int:
    parents = seq.draft_parents or list(range(-1, len(seq.drafts) - 1))
    depths = tree.depths(parents)
    right = {-1}
    for node, (token, parent) in enumerate(zip(seq.drafts, parents, strict=True)):
        if parent in right and token == len(seq.token_ids) + depths[node] - 1:
            right.add(node)
    return len(right) - 1


def speed(world: World, guessers: list[Guesser], batch: int, steps: int = STEPS, trees: bool = False) -> float:
    """Tokens per second divided by those of plain decoding, from the true cost of a plain step."""
    controller = Controller(list(guessers), most=15, trees=trees, clock=world.clock)
    params = SamplingParams(max_tokens=None)
    sequences = [Sequence(Request(str(i), [1], params), 0, [1], 1) for i in range(batch)]
    for seq in sequences:
        seq.status = Status.RUNNING
    tokens = 0
    for _ in range(steps):
        controller.propose(sequences)
        entries = [ScheduledSequence(seq, 1 + len(seq.drafts), len(seq.drafts), 0, 0, True) for seq in sequences]
        for entry in entries:
            entry.accepted = accepted(entry.seq)
            tokens += 1 + entry.accepted
            known = len(entry.seq.token_ids)
            entry.seq.token_ids += range(known, known + 1 + entry.accepted)
        rows = sum(entry.num_tokens for entry in entries)
        seconds = world.spend(world.cost(rows))
        nothing = np.zeros(rows, np.int32)
        controller.observe(entries, StepResult(nothing, nothing.astype(bool)), seconds)
    return tokens / world.now * world.cost(batch) / batch


def flat(rows: int) -> float:
    return 0.02 * (1 + 0.02 * (rows - 1))


def steep(rows: int) -> float:
    return 0.02 * (0.4 + 0.6 * rows)


def stairs(rows: int) -> float:
    return 0.02 * (1 + 0.3 * ((rows - 1) // 6))


COSTS = {"flat": flat, "steep": steep, "stairs": stairs}


@pytest.mark.parametrize("batch", [1, 16])
def test_guesses_in_vain_rest_so_that_their_own_time_does_not_show(batch: int) -> None:
    """Looking up guesses takes 6 % of a step here, and no draft is ever accepted."""
    world = World(lambda rows: 1.0 + 0.2 * (rows - batch), noise=0.0)
    vain = Guesser(world, "vain", alpha=0.0, price=0.06 / 15)
    vain.runs_model = False
    assert speed(world, [vain], batch) >= 0.97


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("cost", COSTS)
def test_never_slower_by_more_than_three_percent(cost: str, alpha: float, batch: int, trees: bool) -> None:
    world = World(COSTS[cost])
    guessers = [Guesser(world, "a", alpha), Guesser(world, "bb", alpha / 2, often=0.5)]
    assert speed(world, guessers, batch, trees=trees) > 0.97


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("price", [0.005, 0.02])
def test_a_costly_bad_method_costs_little(price: float, batch: int) -> None:
    world = World(flat if batch == 1 else steep)
    assert speed(world, [Guesser(world, "draft", 0.3, price=price)], batch) > 0.97


def test_long_drafts_where_rows_are_cheap_and_guesses_good() -> None:
    world = World(flat)
    assert speed(world, [Guesser(world, "a", 0.95)], 1) > 0.9 * expected_tokens(0.95, 15) / (flat(16) / flat(1))


def test_it_takes_the_better_of_two_methods() -> None:
    world = World(flat)
    both = speed(world, [Guesser(world, "a", 0.3), Guesser(world, "bb", 0.9)], 1)
    world = World(flat)
    assert both > 0.93 * speed(world, [Guesser(world, "bb", 0.9)], 1) > 2


def test_a_tree_gains_where_methods_disagree() -> None:
    chain, branched = [
        speed(world, [Guesser(world, "a", 0.6), Guesser(world, "bb", 0.6)], 1, trees=trees)
        for trees in (False, True)
        for world in [World(flat)]
    ]
    assert branched > 1.1 * chain


def test_a_cheap_model_pays_and_is_found_by_a_trial() -> None:
    world = World(flat)
    best = max(expected_tokens(0.8, k) / (flat(1 + k) / flat(1) + k * 0.1) for k in range(1, 16))
    assert speed(world, [Guesser(world, "draft", 0.8, price=0.002)], 1) > 0.85 * best > 1.5


def test_a_costly_method_that_has_nothing_to_say_is_left_alone() -> None:
    world = World(flat)
    assert speed(world, [Guesser(world, "draft", 0.9, often=0.0, price=0.005)], 1) > 0.97


def test_it_comes_back_when_the_text_changes() -> None:
    world = World(flat)
    guesser = Guesser(world, "a", 0.0)
    controller_speed = speed(world, [guesser], 1)
    assert controller_speed > 0.97

    class Turning(Guesser):
        calls = 0

        def _right(self) -> bool:
            Turning.calls += 1
            self.alpha = 0.0 if Turning.calls < 15_000 else 0.95
            return super()._right()

    world = World(flat)
    assert speed(world, [Turning(world, "a", 0.0)], 1, steps=3000) > 1.5


def test_costs_follow_what_is_measured_and_never_fall_with_rows() -> None:
    costs = StepCosts()
    assert costs.seconds(1) == 0
    for _ in range(50):
        for rows in (1, 4, 16):
            costs.observe(rows, flat(rows))
    assert costs.seconds(1) == pytest.approx(flat(1), rel=0.02)
    assert costs.curve()[8] == pytest.approx(flat(8) / flat(1), rel=0.03)
    assert (np.diff(costs.curve()) >= 0).all()


def test_one_odd_measurement_changes_little_and_a_drift_is_followed() -> None:
    costs = StepCosts()
    for _ in range(40):
        costs.observe(1, 0.02)
        costs.observe(6, 0.022)
    costs.observe(6, 5.0)
    assert costs.curve()[6] < 1.3
    for _ in range(60):
        costs.observe(1, 0.04)
    assert costs.seconds(1) == pytest.approx(0.04, rel=0.05)
    assert costs.seconds(6) == pytest.approx(0.045, rel=0.15), "never measured since, but what slows one slows all"


def test_acceptance_by_confidence_and_sequence() -> None:
    shares = Acceptance()
    assert shares.estimate("a", 1) < shares.estimate("a", 20)
    for _ in range(40):
        shares.add("good", 4, accepted=5, drafted=5)
        shares.add("bad", 4, accepted=0, drafted=5)
    assert shares.estimate("good", 4) > 0.95 and shares.estimate("bad", 4) < 0.2
    assert 0.4 < shares.estimate("new", 4) < 0.95
    shares.forget("bad")
    assert shares.estimate("bad", 4) == shares.estimate("new", 4)
    assert [confidence_class(n) for n in (0, 1, 2, 4, 8, 99)] == [0, 1, 2, 3, 4, 4]
