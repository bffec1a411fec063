"""Which format a template teaches, how a prompt explains tools, and the grammars that force calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from octavo.answers.parts import joined
from octavo.answers.reader import Reading
from octavo.answers.tool_formats import EVERY, FORMATS, HERMES, LLAMA, MISTRAL, Format, parser_for, takes_arguments
from octavo.answers.tool_grammar import forced
from octavo.answers.tool_prompt import prepared
from octavo.errors import ConfigError
from tests.unit.answers.cuts import splits

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "42"},
]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("... <tool_call> ... tools", HERMES),
        ('... <tool_call> ... "parameters"', HERMES),
        ('... <|python_tag|> {"name": f, "parameters": g}', LLAMA),
        ("'[TOOL_CALLS] [' + tool", MISTRAL),
        ("nothing of the kind", HERMES),
    ],
)
def test_formats_are_told_from_the_template(template: str, form: Format) -> None:
    parser = parser_for(template)
    assert parser.taught is form and parser.read is EVERY


def test_a_parser_can_be_named() -> None:
    for name, form in FORMATS.items():
        parser = parser_for("<tool_call>", name)
        assert parser.taught is parser.read is form
    with pytest.raises(ConfigError, match=r"tool_call_parser must be auto, hermes, .*; got 'pythonic'"):
        parser_for("", "pythonic")


@pytest.mark.parametrize("form", FORMATS.values(), ids=str)
def test_a_template_without_tools_gets_them_as_text(form: Format) -> None:
    messages, tools = prepared("no word of them", form, TALK, [TOOL])
    assert tools is None
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be brief.\n\n") and '"name": "f"' in messages[0]["content"]
    assert Reading(tools={"f": True}, form=form).read(messages[2]["content"]).calls == [("f", '{"x": 1}')]
    assert messages[3]["content"] == "<tool_response>\n42\n</tool_response>"
    assert prepared("no word of them", form, TALK[1:2], []) == (TALK[1:2], None)


def test_a_template_that_knows_calls_gets_them() -> None:
    messages, tools = prepared("{% for call in message.tool_calls %}", HERMES, TALK, [TOOL])
    assert tools is None and '"name": "f"' in messages[0]["content"] and messages[1:] == TALK[1:]


def test_what_hermes_is_told() -> None:
    told = prepared("no word of them", HERMES, [], [TOOL])[0][0]["content"]
    assert told.endswith(
        "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def test_mistral_gets_ids_of_nine_characters() -> None:
    messages, tools = prepared("[TOOL_CALLS] tools", MISTRAL, TALK, [TOOL])
    short = messages[2]["tool_calls"][0]["id"]
    assert len(short) == 9 and short.isalnum() and messages[3]["tool_call_id"] == short and tools == [TOOL]
    again, _ = prepared("[TOOL_CALLS] tools", MISTRAL, messages, [TOOL])
    assert again == messages
    assert prepared("<tool_call> tools", HERMES, TALK, [TOOL])[0] == TALK


@pytest.mark.parametrize(
    ("parameters", "takes"),
    [
        (None, False),
        ({}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {}, "additionalProperties": True}, True),
        ({"type": "object"}, True),
        ({"type": "object", "properties": {}, "required": ["x"]}, True),
        ({"type": "object", "properties": {"x": {}}}, True),
        ({"$ref": "#/$defs/X"}, True),
    ],
)
def test_a_tool_without_parameters_takes_no_arguments(parameters: Any, takes: bool) -> None:
    function = {"name": "f", "parameters": parameters}
    assert takes_arguments(function) is takes
    grammar = forced(HERMES, [{"function": function}], parallel=False).grammar
    if parameters != {"$ref": "#/$defs/X"}:
        empty = "required" not in (parameters or {})
        assert accepted(grammar, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>') is empty
        assert accepted(grammar, '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>') is takes


def accepted(grammar: str | None, text: str) -> bool:
    """Whether the grammar accepts the text and ends there."""
    native = pytest.importorskip("llguidance")
    tokenizer = native.LLTokenizer("byte")
    matcher, tokens = native.LLMatcher(tokenizer, grammar), tokenizer.tokenize_str(text)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


F = {"function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}}
ONE = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
    "llama3_json": '{"name": "f", "parameters": {"x": 1}}',
    "mistral": '[{"name": "f", "arguments": {"x": 1}}]',
    "json": '{"name": "f", "arguments": {"x": 1}}',
}
TWO = {
    "hermes": f"{ONE['hermes']}\n{ONE['hermes']}",
    "mistral": '[{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 1}}]',
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_grammar_forces_is_read(name: str) -> None:
    form, reads = FORMATS[name], Reading(tools={"f": True}, form=EVERY)
    for parallel in (False, True):
        grammar = forced(form, [F], parallel).grammar
        assert accepted(grammar, ONE[name])
        assert name not in TWO or accepted(grammar, TWO[name]) is parallel
    assert reads.read(ONE[name]).calls == [("f", '{"x": 1}')]
    assert name not in TWO or reads.read(TWO[name]).calls == [("f", '{"x": 1}')] * 2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tools", [{"f": True}, {"f": True, "g": True}], ids=["one tool", "two tools"])
def test_a_forced_call_that_is_cut_off_is_no_content(name: str, tools: dict[str, bool]) -> None:
    text = TWO.get(name, ONE[name])
    reading = Reading(tools=tools, form=EVERY, forced=True)
    for end in range(len(text)):
        answer = reading.read(text[:end])
        assert answer.content == "", text[:end]
        named = text[:end].count('"f"')  # the name is complete
        assert [tool for tool, _ in answer.calls] == ["f"] * max(named, len(tools) == 1)
        assert all('{"x": 1}'.startswith(arguments) for _, arguments in answer.calls)
    assert Reading(tools=tools, form=EVERY).read(text[:20]).content == text[:20]  # nothing forced it


def test_the_parts_of_a_call_that_is_cut_off_do_not_depend_on_the_splits() -> None:
    text = TWO["hermes"][:-25]
    reading = Reading(tools={"f": True}, form=EVERY, forced=True)
    for pieces in splits(text):
        reader = reading.reader()
        parts = [part for piece in pieces for part in reader.feed(piece)]
        assert joined([*parts, *reader.feed("", last=True)]) == reading.read(text)


def test_arguments_are_an_object_whatever_the_schema_says() -> None:
    """A schema without a type, or one of several types, allows more than a call can hold."""
    schemas = (
        {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"x": {"type": "integer"}}}]},
        {"type": ["object", "null"], "properties": {"x": {"type": "integer"}}},
        {"required": ["x"], "properties": {"x": {"type": "integer"}}},
    )
    for schema in schemas:
        grammar = forced(HERMES, [{"function": {"name": "f", "parameters": schema}}], parallel=False).grammar
        assert accepted(grammar, ONE["hermes"])
        for other in ('"x"', "null", "[]", "3"):
            assert not accepted(grammar, ONE["hermes"].replace('{"x": 1}', other))


def test_forced_calls_are_spaced_as_models_know_them() -> None:
    """The grammar fixes white space, because a small model would otherwise fill its answer with it."""
    grammar = forced(HERMES, [F], parallel=False).grammar
    assert not accepted(grammar, '<tool_call>\n{"name": "f", "arguments": {\n  "x": 1\n}}\n</tool_call>')


def test_definitions_stay_where_their_references_look() -> None:
    schema = {"$defs": {"X": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/X"}}}
    grammar = forced(HERMES, [{"function": {"name": "f", "parameters": schema}}], parallel=False).grammar
    assert grammar is not None
    made = json.loads(grammar.partition("f0: %json ")[2])
    assert made["$defs"] == schema["$defs"] and list(made["properties"]) == ["name", "arguments"]
