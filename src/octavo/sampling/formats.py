"""String formats in JSON schemas. A format that llguidance does not know is an annotation, as the standard says."""

from __future__ import annotations

from typing import Any

# Formats whose strings llguidance (1.9) can write.
KNOWN = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
# Where a schema has schemas: as a value or a list of values, or by name.
SCHEMAS = frozenset(
    (
        "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not", "oneOf",
        "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    )
)  # fmt: skip
NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))


def without_unknown(schema: Any) -> Any:
    """Returns the schema without formats that are not known; other keywords, and values, stay as they are."""
    if isinstance(schema, list):
        return [without_unknown(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _inner(key, value) for key, value in schema.items() if not _annotates(key, value)}


def _annotates(key: str, value: Any) -> bool:
    return key == "format" and isinstance(value, str) and value not in KNOWN


def _inner(key: str, value: Any) -> Any:
    if key in SCHEMAS:
        return without_unknown(value)
    if key in NAMED and isinstance(value, dict):
        return {name: without_unknown(each) for name, each in value.items()}
    return value
