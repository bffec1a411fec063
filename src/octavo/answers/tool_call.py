"""Whether a JSON object is a tool call, and which."""

from __future__ import annotations

import json
from collections.abc import Mapping

from octavo.answers.json_object import JsonObject, parsed

ARGUMENTS = ("arguments", "parameters")
KEYS = {"name", "function", "type", "id", "description", *ARGUMENTS}  # an object with another key is not a call


def cannot_be_call(read: JsonObject, tools: Mapping[str, bool]) -> bool:
    """Whether an object that is not complete cannot become a call of one of the tools."""
    name = name_of(read)
    return (read.key is not None and read.key not in KEYS) or (name is not None and name not in tools)


def begins_arguments(read: JsonObject) -> bool:
    """Whether the object that begins is the arguments of a call. A tool's definition has `parameters` too."""
    surely = read.key == "arguments" or (read.key == "parameters" and read.whole("description") is None)
    return surely and read.depth == 2 and name_of(read) is not None


def name_of(read: JsonObject) -> str | None:
    return _text_of(read.whole("name"))


def whole_call(read: JsonObject) -> tuple[str, str | None]:
    """(name, arguments as JSON text) of a complete object. The arguments are None if it has none."""
    function = read.whole("function")
    if function is not None and (inner := parsed(function)) is not None:
        return name_of(inner) or "", _arguments(inner.whole("arguments"))
    given = next((text for key in ARGUMENTS if (text := read.whole(key)) is not None), None)
    arguments = _arguments(given)
    defines = read.whole("description") is not None and '"properties"' in (arguments or "")
    return name_of(read) or "", None if defines else arguments


def _arguments(given: str | None) -> str | None:
    """Arguments as an object: models also write the object's text as a string."""
    written = _text_of(given)
    if given == "null" or written == "":
        return "{}"
    text = given if written is None else written.strip()
    read = None if text is None else parsed(f'{{"arguments": {text}}}')
    found = None if read is None else read.whole("arguments")
    return found if found is not None and found.startswith("{") else None


def _text_of(value: str | None) -> str | None:
    """The string that a JSON text holds; None if it holds no string."""
    if value is None or not value.startswith('"'):
        return None
    try:
        return str(json.loads(value))
    except ValueError:
        return None
