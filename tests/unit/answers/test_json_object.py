"""JSON as models write it becomes JSON that parsers can read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.answers.json_object import MAX_DEPTH, JsonObject, parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def value(text: str) -> str | None:
    read = parsed(f'{{"v": {text}}}')
    return None if read is None else read.whole("v")


@settings(max_examples=40, deadline=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_stays_as_it_is(made: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(made, ensure_ascii=ascii_only, indent=indent)
    assert value(text) == text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("{{}}", "{}"),
        ('{{"a": {{"b": 1}}, "c": {"d": 2}}}', '{"a": {"b": 1}, "c": {"d": 2}}'),
        ('[True, False, None, {"a": None}]', '[true, false, null, {"a": null}]'),
        ('"a\nb\tc"', '"a\\nb\\tc"'),
        ('"""a\n "b" \\n\\""""', '"a\\n \\"b\\" \\n\\""'),
        ('["", """x"""]', '["", "x"]'),
        (r'"\d+\.\w"', r'"\\d+\\.\\w"'),
        (r'"it\'s \"q\""', r'"it' + r"'s \"q\"" + '"'),
    ],
)
def test_slips_are_corrected(written: str, read: str) -> None:
    assert value(written) == read
    json.loads(read)


@pytest.mark.parametrize(
    "text", ["01", "tru", "1 2", "[1 2]", "[1,]", '{"a" 1}', "{'a': 1}", "{a: 1}", "}", "]", '{"a": 1,}', "nulls"]
)  # fmt: skip
def test_what_no_parser_reads_is_refused(text: str) -> None:
    assert value(text) is None


def test_fields_and_what_is_left() -> None:
    read = JsonObject()
    read.push_all('{ "a" : 1 , "b": "x", "a": 2, "\\u0063": [] } tail')
    assert read.closed and not read.broken
    assert [read.whole(key) for key in "abcd"] == ["1", '"x"', "[]", None]


def test_a_value_is_taken_piece_by_piece() -> None:
    read = JsonObject()
    read.push_all('{"a": [1, ')
    assert read.key == "a" and read.whole("a") is None and read.take("a") == "[1, "
    read.push_all("2]")
    assert read.take("a") == "2]" and read.key is None


def test_depth_is_limited() -> None:
    assert value("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)) is not None
    assert value("[" * MAX_DEPTH + "]" * MAX_DEPTH) is None
