"""Tool calls are found in text however it is split, and grammars force them."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from octavo.server.generation import tools
from octavo.server.generation.tool_reader import CallArguments, CallStart, TextPart, ToolReader
from octavo.server.generation.tools import HERMES, LLAMA, Format

Read = tuple[str, list[tuple[str, str]]]
ONE = '<tool_call>\n{"name": "f", "arguments": {"a": "}]\\"{", "b": [1, {"c": 2}]}}\n</tool_call>'
ARGUMENTS = '{"a": "}]\\"{", "b": [1, {"c": 2}]}'


def read(form: Format, pieces: list[str]) -> Read:
    reader, content, calls = ToolReader(form), "", list[tuple[str, str]]()
    for part in [part for piece in pieces for part in reader.feed(piece)] + reader.finish():
        match part:
            case TextPart(text=text):
                content += text
            case CallStart(index=index, name=name):
                assert index == len(calls)
                calls.append((name, ""))
            case CallArguments(index=index, text=text):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + text)
    assert reader.num_calls == len(calls)
    return content, calls


CASES: list[tuple[Format, str, Read]] = [
    (HERMES, "no call at all, but a < and a <tool", ("no call at all, but a < and a <tool", [])),
    (HERMES, ONE, ("", [("f", ARGUMENTS)])),
    (HERMES, f"Let me see. {ONE}", ("Let me see. ", [("f", ARGUMENTS)])),
    (HERMES, f"{ONE}\n{ONE}\n", ("", [("f", ARGUMENTS)] * 2)),
    (HERMES, f"{ONE} and then {ONE}", (" and then ", [("f", ARGUMENTS)] * 2)),
    (HERMES, '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>', ("", [("g", '{"x": 1}')])),
    (HERMES, '<tool_call>{"name": "g", "arguments": {}}</tool_call>', ("", [("g", "{}")])),
    (HERMES, '<tool_call>{"name": "g", "arguments": {"x": 1}}', ("", [("g", '{"x": 1}')])),  # no closing tag
    (HERMES, '<tool_call>{"name": "g", "argum', ('<tool_call>{"name": "g", "argum', [])),
    (HERMES, "<tool_call>nonsense</tool_call> tail", ("<tool_call>nonsense tail", [])),
    (LLAMA, '{"name": "g", "parameters": {"x": "é"}}', ("", [("g", '{"x": "é"}')])),
    (LLAMA, '<|python_tag|>{"name": "g", "parameters": {"x": 1}}', ("", [("g", '{"x": 1}')])),
    (LLAMA, '{"name": "g", "parameters": {}}; {"name": "h", "parameters": {}}', ("", [("g", "{}"), ("h", "{}")])),
    (LLAMA, "Hello {there}", ("Hello {there}", [])),
    (LLAMA, '{"not": "a call"}', ('{"not": "a call"}', [])),
]


@pytest.mark.parametrize(("form", "text", "expected"), CASES)
def test_calls_are_found_wherever_the_text_is_cut(form: Format, text: str, expected: Read) -> None:
    assert read(form, [text]) == expected
    assert read(form, list(text)) == expected
    for cut in range(1, len(text)):
        assert read(form, [text[:cut], text[cut:]]) == expected
    rng = random.Random(0)
    for _ in range(50):
        cuts = sorted(rng.sample(range(len(text) + 1), min(5, len(text))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(form, pieces) == expected


def test_arguments_are_streamed_before_they_are_complete() -> None:
    reader = ToolReader(HERMES)
    parts = reader.feed('<tool_call>{"name": "f", "arguments": {"text": "once upon')
    assert parts == [CallStart(0, "f"), CallArguments(0, '{"text": "once upon')]
    assert reader.feed(" a time") == [CallArguments(0, " a time")]


def test_text_that_can_be_no_tag_is_not_held_back() -> None:
    assert ToolReader(HERMES).feed("a <b> c") == [TextPart("a <b> c")]
    assert ToolReader(HERMES).feed("a <tool") == [TextPart("a ")]


def test_formats_are_told_from_the_template() -> None:
    assert tools.format_of("... <tool_call> ... tools") is HERMES
    assert tools.format_of('... <|python_tag|> {"name": f, "parameters": g}') is LLAMA
    assert tools.format_of("nothing of the kind") is HERMES


def test_a_template_without_tools_gets_them_as_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42"},
    ]
    explained = tools.explain(messages, [{"type": "function", "function": {"name": "f"}}])
    assert [message["role"] for message in explained] == ["system", "user", "assistant", "user"]
    assert explained[0]["content"].startswith("Be brief.\n\n") and '"name": "f"' in explained[0]["content"]
    assert read(HERMES, [explained[2]["content"]]) == ("", [("f", '{"x": 1}')])
    assert explained[3]["content"] == "<tool_response>\n42\n</tool_response>"
    assert tools.explain(messages[1:2], None) == messages[1:2]


def accepted(grammar: str | None, text: str) -> bool:
    """Whether the grammar accepts the text and ends there."""
    native = pytest.importorskip("llguidance")
    tokenizer = native.LLTokenizer("byte")
    matcher, tokens = native.LLMatcher(tokenizer, grammar), tokenizer.tokenize_str(text)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped())


def test_forced_calls_are_spaced_as_models_know_them() -> None:
    """White space is fixed, because a small model fills its answer with it if it is free."""
    forced = tools.forced(HERMES, [{"function": {"name": "f"}}], parallel=False).grammar
    assert accepted(forced, '<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": [1, 2]}}\n</tool_call>')
    assert not accepted(forced, '<tool_call>\n{"name": "f", "arguments": {\n  "a": 1\n}}\n</tool_call>')


def test_definitions_stay_where_their_references_look() -> None:
    schema = {"$defs": {"X": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/X"}}}
    grammar = tools.forced(HERMES, [{"function": {"name": "f", "parameters": schema}}], parallel=False).grammar
    assert grammar is not None
    made = json.loads(grammar.partition("f0: %json ")[2])
    assert made["$defs"] == schema["$defs"] and list(made["properties"]) == ["name", "arguments"]
