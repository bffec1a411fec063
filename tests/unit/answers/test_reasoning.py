"""Reasoning is separated from the answer wherever the text is cut."""

from __future__ import annotations

import pytest

from octavo.answers.parts import ReasoningPart, TextPart, joined
from octavo.answers.reader import Reading
from octavo.answers.reasoning import REASONING, ReasoningReader, opened_by, opened_in, reasoning_for
from octavo.errors import ConfigError
from tests.unit.answers.cuts import splits

QWEN, R1, MISTRAL = (REASONING[name] for name in ("qwen3", "deepseek_r1", "mistral"))
assert QWEN and R1 and MISTRAL

CASES = [
    (False, "<think>\nHm. 1 < 2 </thin\n</think>\n\nYes.\n", ("Hm. 1 < 2 </thin", "Yes.\n")),
    (False, "\n<think>Hm</think>Yes", ("Hm", "Yes")),
    (False, "<think>\n\n</think>\n\nYes", ("", "Yes")),
    (False, "Yes, <think>no</think>", ("", "Yes, <think>no</think>")),
    (False, " Yes", ("", " Yes")),
    (False, "<thin air", ("", "<thin air")),
    (False, "<think>Hm, cut off ", ("Hm, cut off", "")),
    (False, "<think>", ("", "")),
    (False, "<thi", ("", "<thi")),
    (True, "Hm\n</think>\nYes", ("Hm", "Yes")),
    (True, "\n Hm </thi", ("Hm </thi", "")),
    (True, "<think>\nHm</think>Yes", ("Hm", "Yes")),
    (True, "</think>\nYes </think>", ("", "Yes </think>")),
    (True, " ", ("", "")),
]


@pytest.mark.parametrize(("within", "text", "expected"), CASES)
def test_it_is_found_wherever_the_text_is_cut(within: bool, text: str, expected: tuple[str, str]) -> None:
    for pieces in splits(text):
        reader = ReasoningReader(QWEN, within)
        answer = joined([part for piece in pieces for part in reader.feed(piece)] + reader.finish())
        assert (answer.reasoning, answer.content) == expected, pieces


def test_it_streams() -> None:
    reader = ReasoningReader(QWEN, within=False)
    assert reader.feed("<think>\nHm ") == [ReasoningPart("Hm")]
    assert reader.feed("so </") == [ReasoningPart(" so")]
    assert reader.feed("b>") == [ReasoningPart(" </b>")]
    assert reader.feed("</think> a") == [TextPart("a")]
    assert reader.feed(" b ") == [TextPart(" b ")]


def test_the_template_tells_the_form() -> None:
    assert reasoning_for("... {{ '<think>' }} ...") is QWEN
    assert reasoning_for("content.split('</think>')[-1]") is QWEN
    assert reasoning_for("[THINK]") is MISTRAL
    assert reasoning_for("nothing of the kind") is None
    assert reasoning_for("<think>", "none") is None
    assert reasoning_for("", "deepseek_r1") is R1
    with pytest.raises(ConfigError, match=r"reasoning_parser must be auto, qwen3, .*; got 'r2'"):
        reasoning_for("", "r2")


def test_the_prompt_may_open_it() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n", QWEN)
    assert not opened_by("<|im_start|>assistant\n", QWEN) and opened_by("<|im_start|>assistant\n", R1)
    assert not opened_by("assistant\n<think>\n\n</think>\n\n", R1)
    assert opened_in("<think>\nLet me see", QWEN)
    assert not opened_in("<think>a</think>Yes", QWEN) and not opened_in("Yes", QWEN) and not opened_in("", R1)


def test_calls_follow_reasoning_and_are_not_looked_for_in_it() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    text = f"<think>\nI could {call}\n</think>\n\nOk.\n{call}\n{call}"
    reading = Reading(QWEN, tools={"f": True})
    for pieces in splits(text, samples=10):
        reader = reading.reader()
        parts = [part for piece in pieces for part in reader.feed(piece)] + reader.feed("", last=True)
        answer = joined(parts)
        assert (answer.reasoning, answer.content) == (f"I could {call}", "Ok.\n")
        assert answer.calls == [("f", '{"x": 1}')] * 2 and reader.num_calls == 2
    assert reading.read(text) == answer


def test_without_parallel_calls_only_the_first_is_reported() -> None:
    call = '{"name": "f", "arguments": {"x": 1}}'
    assert Reading(tools={"f": True}, parallel=False).read(f"{call}\n{call}").calls == [("f", '{"x": 1}')]
