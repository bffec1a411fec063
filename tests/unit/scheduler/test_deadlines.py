from __future__ import annotations

from octavo.sampling_params import SamplingParams
from octavo.scheduler.deadlines import Deadlines
from octavo.types import Request


def request(name: str, deadline: float | None) -> Request:
    return Request(name, [1], SamplingParams(), deadline=deadline)


def test_each_deadline_passes_once_and_in_order() -> None:
    now = [0.0]
    deadlines = Deadlines(lambda: now[0])
    for name, due in (("b", 2.0), ("a", 1.0), ("never", None)):
        deadlines.add(request(name, due))
    assert deadlines.passed() == []
    now[0] = 2.0
    assert deadlines.passed() == ["a", "b"]
    assert deadlines.passed() == []


def test_a_request_that_ended_is_skipped_even_if_its_name_is_used_again() -> None:
    now = [0.0]
    deadlines = Deadlines(lambda: now[0])
    first = request("a", 1.0)
    deadlines.add(first)
    deadlines.remove(first)
    deadlines.add(request("a", 5.0))
    now[0] = 3.0
    assert deadlines.passed() == []
    now[0] = 5.0
    assert deadlines.passed() == ["a"]
