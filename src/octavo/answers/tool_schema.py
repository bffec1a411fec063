"""Whether a tool's parameters allow an object at all: the arguments of a call are one."""

from __future__ import annotations

import json
from typing import Any

from octavo.types import Json

OBJECT: Json = {"type": "object"}


def arguments_schema(parameters: Json) -> Json:
    """The schema of the arguments: the parameters' own, of objects only. Few clients forget the type; some do."""
    return {**parameters, **OBJECT}


def no_object(parameters: Json) -> str | None:
    """Why a schema allows no object, as "type is ..."; None if it may allow one. A $ref is not followed."""
    for keyword, value in parameters.items():
        if not _may_be_object(keyword, value):
            return f"{keyword} is {json.dumps(value, ensure_ascii=False)[:80]}"
    return None


def _may_be_object(keyword: str, value: Any) -> bool:
    match keyword:
        case "type":
            return value == "object" or (isinstance(value, list) and "object" in value)
        case "const":
            return isinstance(value, dict)
        case "enum":
            return isinstance(value, list) and any(isinstance(each, dict) for each in value)
        case "allOf":
            return isinstance(value, list) and all(map(_allows_object, value))
        case "anyOf" | "oneOf":
            return isinstance(value, list) and any(map(_allows_object, value))
        case _:
            return True


def _allows_object(schema: Any) -> bool:
    return no_object(schema) is None if isinstance(schema, dict) else bool(schema)
