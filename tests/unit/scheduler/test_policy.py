from __future__ import annotations

import pytest

from octavo.errors import ConfigError
from octavo.sampling_params import SamplingParams
from octavo.scheduler import policy
from octavo.types import Request, Sequence


def sequence(name: str, arrival: float, priority: int = 0, deadline: float | None = None, index: int = 0) -> Sequence:
    request = Request(name, [1], SamplingParams(), priority=priority, deadline=deadline, arrival=arrival)
    return Sequence(request, index, [1], 1)


SEQUENCES = [
    sequence("late", 9.0),
    sequence("sibling", 1.0, index=1),
    sequence("early", 1.0),
    sequence("urgent", 5.0, priority=-1),
    sequence("due", 7.0, deadline=100.0),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcfs", ["early", "sibling", "urgent", "due", "late"]),
        ("priority", ["urgent", "early", "sibling", "due", "late"]),
        ("deadline", ["urgent", "due", "early", "sibling", "late"]),
    ],
)
def test_order(name: str, expected: list[str]) -> None:
    ordered = sorted(SEQUENCES, key=policy.order(name))
    assert [seq.request.request_id for seq in ordered] == expected


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ConfigError, match="policy"):
        policy.order("lottery")
