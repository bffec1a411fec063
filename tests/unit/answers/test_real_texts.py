"""Answers that models gave to the requests of bench/tool_calls.py, with the calls that they contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.answers.reader import Reading

ANSWERS = json.loads((Path(__file__).parents[2] / "data" / "tool_calls.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_real_answers(answer: dict[str, Any]) -> None:
    calls = Reading(tools=answer["tools"]).read(answer["text"]).calls
    assert [[name, _value(arguments)] for name, arguments in calls] == answer["calls"]


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {"not JSON": arguments}
