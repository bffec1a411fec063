"""Tool calls are found in text however it is split, in every spelling that models use, and nothing else is a call."""

# ruff: noqa: E501 (a case keeps to its line)

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.answers.parts import CallArguments, CallStart, TextPart, joined
from octavo.answers.tool_formats import EVERY, HERMES, JSON, LLAMA, MISTRAL, Format
from octavo.answers.tool_reader import ToolReader
from tests.unit.answers.cuts import splits

Read = tuple[str, list[tuple[str, str]]]
TOOLS = {"f": True, "g": True, "h": True, "none": False}
ONE = '<tool_call>\n{"name": "f", "arguments": {"a": "}]\\"{", "b": [1, {"c": 2}]}}\n</tool_call>'
ARGUMENTS = '{"a": "}]\\"{", "b": [1, {"c": 2}]}'
F1 = ("f", '{"x": 1}')
CALL = '{"name": "f", "arguments": {"x": 1}}'
CODE = '```json\n{"host": "::1"}\n```'
DEFINITION = '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {}}}}'


def read(form: Format, pieces: list[str], tools: dict[str, bool] = TOOLS) -> Read:
    reader = ToolReader(form, tools)
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.finish()
    starts = [part.index for part in parts if isinstance(part, CallStart)]
    assert starts == list(range(reader.num_calls))
    answer = joined(parts)
    return answer.content, answer.calls


CASES: dict[str, tuple[Format, str, Read]] = {
    "no call": (HERMES, "no call at all, but a < and a <tool", ("no call at all, but a < and a <tool", [])),
    "hermes": (HERMES, ONE, ("", [("f", ARGUMENTS)])),
    "text before": (HERMES, f"Let me see. {ONE}", ("Let me see. ", [("f", ARGUMENTS)])),
    "two": (HERMES, f"{ONE}\n{ONE}\n", ("", [("f", ARGUMENTS)] * 2)),
    "text between": (HERMES, f"{ONE} and then {ONE}", (" and then ", [("f", ARGUMENTS)] * 2)),
    "two in one tag": (HERMES, f"<tool_call>\n{CALL}\n{CALL}\n</tool_call>", ("", [F1, F1])),
    "a list in a tag": (HERMES, f"<tool_call>[{CALL}, {CALL}]</tool_call>.", (".", [F1, F1])),
    "a fence in a tag": (HERMES, f"<tool_call>\n```json\n{CALL}\n```\n</tool_call>\n", ("", [F1])),
    "arguments first": (HERMES, '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>', ("", [F1])),
    "other keys too": (HERMES, '<tool_call>{"type": "function", "id": 7, "name": "f", "arguments": {"x": 1}}</tool_call>', ("", [F1])),
    "the key parameters": (HERMES, '<tool_call>{"name": "f", "parameters": {"x": 1}}</tool_call>', ("", [F1])),
    "no arguments": (HERMES, '<tool_call>{"name": "g", "arguments": {}}</tool_call>', ("", [("g", "{}")])),
    "null arguments": (HERMES, '<tool_call>{"name": "g", "arguments": null}</tool_call>', ("", [("g", "{}")])),
    "arguments as text": (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', ("", [F1])),
    "text as text": (HERMES, '<tool_call>{"name": "f", "arguments": "x is 1"}</tool_call>', ('<tool_call>{"name": "f", "arguments": "x is 1"}</tool_call>', [])),
    "OpenAI's form": (EVERY, '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}', ("", [F1])),
    "doubled braces": (EVERY, '{{"name": "f", "arguments": {{"x": {{"y": 1}}}}}}', ("", [("f", '{"x": {"y": 1}}')])),
    "doubled outside": (EVERY, '<tool_call>\n{{"name": "f", "arguments": {"x": 1}}}\n</tool_call> ok', (" ok", [F1])),
    "doubled opening only": (EVERY, '<tool_call>\n{{"name": "f", "arguments": {"x": 1}}\n</tool_call> ok', (" ok", [F1])),
    "the closing tag in a string": (HERMES, '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>', ("", [("f", '{"x": "</tool_call>"}')])),
    "a line break in a string": (HERMES, '<tool_call>{"name": "f", "arguments": {"x": "a\n\tb\\d\\\'"}}</tool_call>', ("", [("f", '{"x": "a\\n\\tb\\\\d\'"}')])),
    "Python's words": (HERMES, '<tool_call>{"name": "f", "arguments": {"x": [True, False, None, -1.5e3]}}</tool_call>', ("", [("f", '{"x": [true, false, null, -1.5e3]}')])),
    "no closing tag": (HERMES, '<tool_call>{"name": "g", "arguments": {"x": 1}}', ("", [("g", '{"x": 1}')])),
    "no closing brace": (HERMES, '<tool_call>{"name": "g", "arguments": {"x": 1}</tool_call> ok', (" ok", [("g", '{"x": 1}')])),
    "cut off in the head": (HERMES, '<tool_call>{"name": "g", "argum', ('<tool_call>{"name": "g", "argum', [])),
    "cut off in the arguments": (HERMES, '<tool_call>{"name": "g", "arguments": {"x": "a', ("", [("g", '{"x": "a')])),
    "arguments that are not JSON": (HERMES, '<tool_call>{"name": "g", "arguments": {"x": a b}}</tool_call>', ("", [("g", '{"x": a b}}')])),
    "nonsense in a tag": (HERMES, "<tool_call>nonsense</tool_call> tail", ("<tool_call>nonsense</tool_call> tail", [])),
    "an unknown tool": (HERMES, '<tool_call>{"name": "z", "arguments": {"x": 1}}</tool_call>', ('<tool_call>{"name": "z", "arguments": {"x": 1}}</tool_call>', [])),
    "a tool without parameters": (HERMES, '<tool_call>{"name": "none", "arguments": {"x": {"y": 1}}}</tool_call>', ("", [("none", "{}")])),
    "nothing but its name": (HERMES, '<tool_call>{"name": "none"}</tool_call>', ("", [("none", "{}")])),
    "no arguments, though there are parameters": (HERMES, '<tool_call>{"name": "f"}</tool_call>', ('<tool_call>{"name": "f"}</tool_call>', [])),
    "hermes reads no bare JSON": (HERMES, CALL, (CALL, [])),
    "bare": (EVERY, CALL, ("", [F1])),
    "bare, after text": (EVERY, f"I call it:\n{CALL}\nDone.", ("I call it:\n\nDone.", [F1])),
    "bare within a line": (EVERY, f"Write {CALL} there.", (f"Write {CALL} there.", [])),
    "bare without arguments": (EVERY, '{"name": "none"}', ('{"name": "none"}', [])),
    "bare, a list": (EVERY, f"[\n  {CALL},\n  {CALL}\n]", ("", [F1, F1])),
    "bare, indented": (EVERY, '{\n  "name": "f",\n  "arguments": {\n    "x": 1\n  }\n}', ("", [("f", '{\n    "x": 1\n  }')])),
    "bare, of an unknown tool": (EVERY, '{"name": "Anna", "arguments": {}}', ('{"name": "Anna", "arguments": {}}', [])),
    "an object": (EVERY, '{"city": "Oslo", "calls": [\n' + CALL + "]}", ('{"city": "Oslo", "calls": [\n' + CALL + "]}", [])),
    "a fence": (EVERY, f"```json\n{CALL}\n```", ("", [F1])),
    "a fence, after text": (EVERY, f"So:\n\n```json\n{CALL}\n```\n\n```\n{CALL}\n```\nDone", ("So:\n\n\nDone", [F1, F1])),
    "a fence with two": (EVERY, f"```json\n{CALL}\n{CALL}\n```", ("", [F1, F1])),
    "a fence with JSON": (EVERY, f"Config:\n{CODE}\nDone.", (f"Config:\n{CODE}\nDone.", [])),
    "a fence, then a call": (EVERY, f"{CODE}\n{CALL}", (f"{CODE}\n", [F1])),
    "a fence with code": (EVERY, f"```python\nx = 1\n{CALL}\n```\nDone", (f"```python\nx = 1\n{CALL}\n```\nDone", [])),
    "an empty fence": (EVERY, f"```\n```\n{CALL}", ("```\n```\n", [F1])),
    "code": (EVERY, "{ int x; }\n{}\n[1]\n[", ("{ int x; }\n{}\n[1]\n[", [])),
    "the definition of a tool": (EVERY, DEFINITION, (DEFINITION, [])),
    "a description with a call": (EVERY, '{"name": "f", "description": "d", "parameters": {"x": 1}}', ("", [F1])),
    "white space only": (EVERY, " \n ", (" \n ", [])),
    "llama": (LLAMA, '{"name": "g", "parameters": {"x": "é"}}', ("", [("g", '{"x": "é"}')])),
    "llama, other order": (LLAMA, '{"parameters": {"x": 1}, "name": "f"}', ("", [F1])),
    "llama's tag": (LLAMA, '<|python_tag|>{"name": "g", "parameters": {"x": 1}}', ("", [("g", '{"x": 1}')])),
    "llama, two": (LLAMA, '{"name": "g", "parameters": {}}; {"name": "h", "parameters": {}}', ("", [("g", "{}"), ("h", "{}")])),
    "llama, text": (LLAMA, "Hello {there}", ("Hello {there}", [])),
    "llama, another object": (LLAMA, '{"not": "a call"}', ('{"not": "a call"}', [])),
    "llama reads no tags": (LLAMA, f"<tool_call>{CALL}</tool_call>", (f"<tool_call>{CALL}</tool_call>", [])),
    "llama's functions": (EVERY, '<function=f>{"x": 1}</function>', ("", [F1])),
    "mistral": (MISTRAL, f"[TOOL_CALLS] [{CALL}, {CALL}]", ("", [F1, F1])),
    "mistral, newer": (MISTRAL, '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]a1[ARGS]{}', ("", [F1, ("g", "{}")])),
    "mistral, without the word": (MISTRAL, '[TOOL_CALLS]f{"x": 1}', ("", [F1])),
    "mistral, an unknown tool": (MISTRAL, '[TOOL_CALLS]z[ARGS]{"x": 1}', ('[TOOL_CALLS]z[ARGS]{"x": 1}', [])),
    "mistral by default": (EVERY, f"[TOOL_CALLS] [{CALL}]", ("", [F1])),
    "json": (JSON, f"```json\n{CALL}\n```\n{CALL}", ("", [F1, F1])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_calls_are_found_wherever_the_text_is_cut(case: str) -> None:
    form, text, expected = CASES[case]
    for pieces in splits(text):
        assert read(form, pieces) == expected, pieces


PIECES = [
    "<tool_call>", "</tool_call>", "```", "```json\n", "```\n", "\n", " ", "{", "}", "{{", "}}", "[", "]", ",", ":", ";",
    '"name": ', '"f"', '"z"', '"none"', '"arguments": ', '"parameters": ', '{"x": 1}', '"{\\"x\\": 1}"', CALL, "text",
    '"description": "d"', '"', "\\", "<", "<tool", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "f", "<function=", "f>",
    "True", "null", "1", "</function>",
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from([EVERY, HERMES, LLAMA, MISTRAL, JSON]), st.data()
)
def test_no_text_depends_on_where_it_is_cut(pieces: list[str], form: Format, data: Any) -> None:
    text = "".join(pieces)
    whole = read(form, [text])
    assert read(form, list(text)) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert read(form, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == whole
    if not whole[1]:
        assert whole[0] == text, "text without a call comes out as it went in"


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.sampled_from(["<tool_call>\n{}\n</tool_call>", "{}", "```json\n{}\n```", "[TOOL_CALLS] [{}]"]),
)  # fmt: skip
def test_any_arguments_come_out_as_they_went_in(
    arguments: dict[str, Any], ascii_only: bool, indent: int | None, around: str
) -> None:
    call = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only, indent=indent)
    content, calls = read(EVERY, list(around.replace("{}", call)))
    assert content == "" and [name for name, _ in calls] == ["f"]
    assert json.loads(calls[0][1]) == arguments


def test_arguments_are_streamed_before_they_are_complete() -> None:
    reader = ToolReader(HERMES, TOOLS)
    parts = reader.feed('<tool_call>{"name": "f", "arguments": {"text": "once upon')
    assert parts == [CallStart(0, "f"), CallArguments(0, '{"text": "once upon')]
    assert reader.feed(" a time") == [CallArguments(0, " a time")]


def test_text_that_can_be_no_call_is_not_held_back() -> None:
    reader = ToolReader(EVERY, TOOLS)
    assert reader.feed("a <b> c") == [TextPart("a <b> c")]
    assert reader.feed("a <tool") == [TextPart("a ")]
    assert reader.feed("x\n``") == [TextPart("<toolx\n")]
    assert reader.feed('`json\n{"host"') == []
    assert reader.feed(': "::1"') == [TextPart('```json\n{"host": "'), TextPart('::1"')]


@pytest.mark.parametrize("text", [" ", "\n", "[", "[ ", "{", '{"name":', "<tool_call>", "\n```", "`"])
def test_no_text_costs_more_than_its_length(text: str) -> None:
    """A small model can repeat anything. Twice the text must not cost four times the work."""

    def seconds(count: int) -> float:
        reader, pieces = ToolReader(EVERY, TOOLS), [text * 8] * count
        begin = time.perf_counter()
        for piece in pieces:
            reader.feed(piece)
        reader.finish()
        return time.perf_counter() - begin

    assert min(seconds(800) for _ in range(3)) < 40 * min(seconds(100) for _ in range(3)) + 0.1


def test_an_endless_head_is_text() -> None:
    """A model that opens a tag and then talks does not stop the stream."""
    text = "<tool_call>" + "word " * 100
    assert read(HERMES, list(text)) == (text, [])
    assert "".join(part.text for part in ToolReader(HERMES, TOOLS).feed(text) if isinstance(part, TextPart)) == text
