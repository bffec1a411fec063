"""Parameters that allow no object are found without a grammar: the reason names the keyword."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.answers.tool_schema import no_object
from octavo.sampling.grammar import why_unusable


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "string"}, 'type is "string"'),
        ({"type": ["string", "null"]}, 'type is ["string", "null"]'),
        ({"enum": ["a", "b"]}, 'enum is ["a", "b"]'),
        ({"type": "object", "enum": ["a"]}, 'enum is ["a"]'),
        ({"const": 3}, "const is 3"),
        ({"allOf": [{"type": "object"}, {"type": "array"}]}, "allOf is"),
        ({"anyOf": [{"type": "string"}, False]}, "anyOf is"),
        ({"oneOf": []}, "oneOf is []"),
        ({}, None),
        ({"type": "object"}, None),
        ({"type": ["object", "null"]}, None),
        ({"enum": ["a", {"x": 1}]}, None),
        ({"anyOf": [{"type": "string"}, {"properties": {}}]}, None),
        ({"$ref": "#/$defs/X"}, None),
        ({"properties": {"type": {"type": "string"}}}, None),  # a property of that name
    ],
)
def test_no_object(parameters: dict[str, Any], reason: str | None) -> None:
    found = no_object(parameters)
    assert found == reason if reason is None else found is not None and found.startswith(reason)


def test_a_schema_that_is_nested_without_end_is_looked_at_to_a_depth() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        schema = {"allOf": [schema]}
    assert no_object(schema) is not None
    for _ in range(2000):
        schema = {"anyOf": [schema]}
    assert no_object(schema) is None


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object"}, None),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "required property 'a' is unsatisfiable"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "required property 'a'"),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "Invalid type: strin"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"not": {}}, "not"),
    ],
)
def test_why_unusable(schema: dict[str, Any], reason: str | None) -> None:
    pytest.importorskip("llguidance")
    found = why_unusable(schema)
    assert found is None if reason is None else found is not None and reason in found
