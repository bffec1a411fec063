"""The formats in which models write tool calls.

    hermes        <tool_call>{"name": ..., "arguments": {...}}</tool_call>      Hermes, Qwen, SmolLM and others
    llama3_json   {"name": ..., "parameters": {...}}, the whole answer          Llama 3.x
    mistral       [TOOL_CALLS] [{"name": ..., "arguments": {...}}], or, newer, [TOOL_CALLS]name[ARGS]{...}
    json          {"name": ..., "arguments": {...}}, bare or in a ```json fence

A model is taught one format, but small models write others too. So by default every format is read (`EVERY`).
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.errors import ConfigError
from octavo.types import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # Llama 3.1 may write it before a call
MISTRAL_TAG = "[TOOL_CALLS]"
_FENCED = r"\s*(?:```(?:json)?\s*)?[\[\s]*"
_MISTRAL_NAME = r"\s*(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*"


@dataclass(frozen=True, slots=True)
class Tag:
    """The text before a call. closes: the text after it, if there is one.

    head: regular expression of what may stand between the tag and the brace of the call. If it has a group `name`, the
    object holds only the arguments.
    """

    opens: str
    closes: str = ""
    head: str = _FENCED


@dataclass(frozen=True, slots=True)
class Format:
    """arguments: the key of a call's arguments. bare: whether a call may begin a line without any tag.

    fenced: whether a call may be the content of a ``` fence.
    """

    name: str
    arguments: str = "arguments"
    tags: tuple[Tag, ...] = ()
    bare: bool = False
    fenced: bool = False


HERMES = Format("hermes", tags=(Tag(OPEN, CLOSE),))
LLAMA = Format("llama3_json", "parameters", (Tag(PYTHON_TAG),), bare=True)
MISTRAL = Format("mistral", tags=(Tag(MISTRAL_TAG, head=rf"{_FENCED}|{_MISTRAL_NAME}"),))
JSON = Format("json", bare=True, fenced=True)
FORMATS = {form.name: form for form in (HERMES, LLAMA, MISTRAL, JSON)}
_OTHER_TAGS = (
    Tag("<function=", "</function>", r"(?P<name>[\w.-]+)>\s*"),  # Llama 3.1's format for own functions
    *(Tag(f"<{word}>", f"</{word}>") for word in ("tools", "tool", "function_call", "json")),  # Qwen Coder's slips
)
EVERY = Format("auto", tags=sum((form.tags for form in FORMATS.values()), _OTHER_TAGS), bare=True, fenced=True)


@dataclass(frozen=True, slots=True)
class ToolParser:
    """taught: the format that prompts explain and grammars force. read: where calls are looked for."""

    taught: Format
    read: Format


def parser_for(template: str, name: str = "auto") -> ToolParser:
    """The parser of that name; for "auto", the one that suits a model's chat template. Raises ConfigError."""
    if name == "auto":
        return ToolParser(_taught_by(template), EVERY)
    return ToolParser(FORMATS[check_name(name)], FORMATS[name])


def check_name(name: str) -> str:
    """Returns the name. Raises ConfigError if there is no such parser."""
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"tool_call_parser must be auto, {', '.join(FORMATS)}; got {name!r}")
    return name


def _taught_by(template: str) -> Format:
    marks = {MISTRAL_TAG: MISTRAL, OPEN: HERMES, PYTHON_TAG: LLAMA, '"parameters"': LLAMA}
    return next((form for mark, form in marks.items() if mark in template), HERMES)


def takes_arguments(function: Json) -> bool:
    """Whether a function has parameters. As in OpenAI's API, it has none without a schema, or with an empty one."""
    schema = function.get("parameters") or {"properties": {}}
    unnamed = ("additionalProperties", "patternProperties", "required")
    return schema.get("properties") != {} or any(schema.get(keyword) for keyword in unnamed)
