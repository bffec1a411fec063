"""Whether a tool's parameters allow an object at all: the arguments of a call are one."""

from __future__ import annotations

import json
from typing import Any

from octavo.types import Json

OBJECT: Json = {"type": "object"}
MAX_DEPTH = 32  # of schemas within schemas that are looked at


def arguments_schema(parameters: Json) -> Json:
    """The schema of the arguments: the parameters' own, of objects only. Few clients forget the type; some do."""
    return {**parameters, **OBJECT}


def no_object(parameters: Json, depth: int = 0) -> str | None:
    """Why a schema allows no object, as "type is ..."; None if it may allow one. A $ref is not followed."""
    for keyword, value in parameters.items():
        if not _may_be_object(keyword, value, depth):
            return f"{keyword} is {json.dumps(value, ensure_ascii=False)[:80]}"
    return None


def _may_be_object(keyword: str, value: Any, depth: int) -> bool:
    match keyword:
        case "type":
            return value == "object" or (isinstance(value, list) and "object" in value)
        case "const":
            return isinstance(value, dict)
        case "enum":
            return isinstance(value, list) and any(isinstance(each, dict) for each in value)
        case "allOf":
            return isinstance(value, list) and all(_allows_object(each, depth + 1) for each in value)
        case "anyOf" | "oneOf":
            return isinstance(value, list) and any(_allows_object(each, depth + 1) for each in value)
        case _:
            return True


def _allows_object(schema: Any, depth: int) -> bool:
    if depth > MAX_DEPTH:
        return True
    return no_object(schema, depth) is None if isinstance(schema, dict) else bool(schema)
