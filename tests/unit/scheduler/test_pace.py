"""Prompts are cut into chunks, so that sequences that decode at the same time are not delayed."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.config import EngineConfig, check
from octavo.errors import ConfigError
from octavo.scheduler.pace import FEWEST, Pace
from tests.unit.scheduler.test_continuous import Rig

DECODE, TOKEN = 0.040, 0.001  # seconds of a step's decoding part, and of each prompt token


def measured(target: float | str = "auto") -> Pace:
    pace = Pace(target)
    for _ in range(30):
        pace.observe(8, 0, DECODE)
        pace.observe(8, 32, DECODE + 32 * TOKEN)
    return pace


def test_prompts_get_no_more_of_a_step_than_those_that_decode() -> None:
    room = measured().room(8, 8, 1)
    assert room is not None and 0.5 * DECODE <= room * TOKEN <= DECODE


def test_a_target_is_kept() -> None:
    room = measured(target=0.120).room(8, 8, 1)
    assert room is not None and 0.070 <= room * TOKEN <= 0.080


def test_many_that_wait_outweigh_few_that_decode() -> None:
    pace = measured()
    few, many = pace.room(8, 1, 1), pace.room(8, 1, 15)
    assert few is not None and many is not None and many / few >= 14


def test_a_queue_does_not_starve_on_small_pieces() -> None:
    """Small chunks cost more per token. This must not make them even smaller while other requests wait."""
    pace = Pace()
    for _ in range(30):
        pace.observe(8, 0, DECODE)
        pace.observe(8, 8, DECODE + 8 * 10 * TOKEN)
    alone, queue = pace.room(8, 8, 1), pace.room(8, 8, 4)
    assert alone == FEWEST and queue is not None and queue >= 3 * FEWEST


def test_a_prompt_always_gets_on() -> None:
    assert measured(target=0.001).room(8, 8, 1) == FEWEST


def test_nothing_is_held_back_where_nobody_decodes_or_nothing_is_known() -> None:
    assert measured().room(0, 0, 1) is None
    assert Pace().room(8, 8, 1) is None


def test_steps_that_nobody_notices_are_not_cut() -> None:
    pace = Pace()
    for _ in range(30):
        pace.observe(8, 0, 1e-4)
        pace.observe(8, 100, 2e-4)
    room = pace.room(8, 8, 1)
    assert room is not None and room > 5000


def test_one_slow_step_does_not_change_much() -> None:
    pace = measured()
    before = pace.room(8, 8, 1)
    pace.observe(8, 32, 60.0)
    after = pace.room(8, 8, 1)
    assert before is not None and after is not None and after >= before / 2.5


@pytest.mark.parametrize(("target", "most"), [("auto", 32), (None, 63)])
def test_the_scheduler_cuts_a_long_prompt_and_tells_how_many_tokens_ran(target: str | None, most: int) -> None:
    rig = Rig(blocks=256, max_num_batched_tokens=64, target_itl=target)
    rig.scheduler._clock = lambda: rig.now

    def step() -> list[tuple[str, int]]:
        plan = rig.schedule()
        rows = sum(entry.num_tokens for entry in plan.entries)
        assert rig.scheduler.stats.step_tokens == rows
        rig.now += DECODE + TOKEN * rows
        rig.run(plan)
        return [(entry.seq.request.request_id, entry.num_tokens) for entry in plan.entries]

    rig.add("a", 3)
    for _ in range(10):
        step()
    rig.add("long", 150)
    sizes = [size for _ in range(4) for name, size in step() if name == "long"]
    assert sizes[0] <= most and (sizes[0] == 63) == (target is None), sizes  # no target: the whole budget
    if target:
        assert all(FEWEST <= size <= most for size in sizes), sizes


@pytest.mark.parametrize("value", [0, -1.0, "soon", float("nan")])
def test_a_target_that_cannot_be(value: Any) -> None:
    with pytest.raises(ConfigError, match="target_itl"):
        check(EngineConfig(target_itl=value))
