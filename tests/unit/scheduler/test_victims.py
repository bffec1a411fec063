from __future__ import annotations

import random
from collections import defaultdict

import pytest

from octavo.config import CHOICES
from octavo.sampling_params import SamplingParams
from octavo.scheduler.victims import VICTIMS
from octavo.types import Request, Sequence
from tests.unit.control import Answer, RandomDrafts, collect, drain, engine, prompt, request


def running(name: str, priority: int, waited: float, generated: int, blocks: int) -> Sequence:
    made = Request(name, [1], SamplingParams(), priority=priority, arrival=0.0)
    seq = Sequence(made, 0, [1] * (1 + generated), 1, block_table=list(range(blocks)))
    seq.scheduled = waited
    return seq


@pytest.mark.parametrize(("victim", "expected"), [("last", "d"), ("priority", "b"), ("blocks", "a"), ("score", "c")])
def test_who_is_preempted(victim: str, expected: str) -> None:
    candidates = [
        running("a", priority=0, waited=4.0, generated=2, blocks=9),  # 4 / (1 x 2)
        running("b", priority=3, waited=60.0, generated=5, blocks=2),  # 60 / (4 x 5)
        running("c", priority=0, waited=6.0, generated=20, blocks=7),  # 6 / (1 x 20)
        running("d", priority=1, waited=1.0, generated=1, blocks=3),  # 1 / (2 x 1)
    ]
    assert VICTIMS[victim](candidates).request.request_id == expected


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_last_of_equals_is_preempted(victim: str) -> None:
    candidates = [running(str(i), 0, 0.0, 0, 4) for i in range(3)]
    assert VICTIMS[victim](candidates) is candidates[-1]


def test_the_setting_knows_the_same_names() -> None:
    assert tuple(VICTIMS) == CHOICES["preemption_victim"]


@pytest.mark.parametrize("policy", ["priority", "fcfs"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_pool_at_five_percent_of_demand_finishes_every_request_with_the_same_answer(victim: str, policy: str) -> None:
    """With drafts, and with requests of many lengths, so that the choices differ. The first in policy order is never
    preempted."""
    source = random.Random(7)
    requests = [
        request(
            f"r{i}",
            prompt(source.randint(4, 60), i),
            SamplingParams(temperature=0, max_tokens=source.randint(5, 60)),
            priority=source.randint(0, 2),
            arrival=float(i),
        )
        for i in range(40)
    ]
    alone = {key: answer for item in requests for key, answer in drain(engine(), [item]).items()}
    demand = sum(-(-(len(item.prompt_token_ids) + (item.params.max_tokens or 0)) // 4) for item in requests)
    tight = engine(
        blocks=max(30, demand // 20),
        max_num_seqs=40,
        policy=policy,
        preemption_victim=victim,
        proposer=RandomDrafts(alone, 0.7),
    )
    answers: dict[tuple[str, int], Answer] = defaultdict(Answer)
    for item in requests:
        tight.add(item)
    queue = tight.scheduler._queue
    for _ in range(20_000):
        if not tight.has_work:
            break
        first = queue.running[0] if queue.running else None
        before = first.num_preemptions if first else 0
        collect(answers, tight.step())
        tight.cache.check_integrity()
        assert first is None or first.num_preemptions == before, "the first in policy order gave way"
    assert not tight.has_work and tight.cache.usage == 0
    assert answers == alone
    assert tight.stats.preemptions > 5
