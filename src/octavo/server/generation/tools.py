"""The formats of tool calls: how a prompt explains them, and which grammar forces them.

Two formats cover most open models:

    hermes  <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>     Hermes, Qwen, SmolLM and others
    llama   {"name": ..., "parameters": {...}}, the whole answer            Llama 3.x

A template without tool support gets the tools in a system message, in hermes format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo.types import Json, StructuredOutputs

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # Llama 3.1 may write it before a call
ANY_ARGUMENTS: Json = {"type": "object"}
MAX_CALLS = 16  # most calls in one answer that must call a tool
# The spacing of `json.dumps`, which models saw in training. With free white space, small models fill answers with it.
SPACING: Json = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}

INTRODUCTION = """\
You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Format:
    """arguments: the JSON key of a call's arguments. opens, closes: the tags around a call."""

    name: str
    arguments: str
    opens: str
    closes: str


HERMES = Format("hermes", "arguments", OPEN, CLOSE)
LLAMA = Format("llama", "parameters", "", "")


def format_of(template: str) -> Format:
    """The format that a model's chat template teaches."""
    llama = PYTHON_TAG in template or ('"parameters"' in template and OPEN not in template)
    return LLAMA if llama else HERMES


def knows_tools(template: str) -> bool:
    return "tools" in template


def explain(messages: Sequence[Json], tools: Sequence[Json] | None) -> list[Json]:
    """Converts tools, tool calls and tool results to plain text, for a template without tool support."""
    plain_messages = [_plain(message) for message in messages]
    if not tools:
        return plain_messages
    text = INTRODUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if plain_messages and plain_messages[0]["role"] == "system":
        return [{**plain_messages[0], "content": f"{plain_messages[0]['content']}\n\n{text}"}, *plain_messages[1:]]
    return [{"role": "system", "content": text}, *plain_messages]


def _plain(message: Json) -> Json:
    if message["role"] in ("tool", "function"):
        return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"}
    calls = [_written(call) for call in message.get("tool_calls") or ()]
    content = "\n".join([*filter(None, [message.get("content")]), *calls])
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content}


def _written(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return f'{OPEN}\n{{"name": {json.dumps(function.get("name"))}, "arguments": {text}}}\n{CLOSE}'


def forced(form: Format, tools: Sequence[Json], parallel: bool) -> StructuredOutputs:
    """A grammar for answers that consist of one call of these tools; of up to MAX_CALLS calls if `parallel`."""
    rules = [f"f{i}: %json {json.dumps(_call_schema(form, tool['function']))}" for i, tool in enumerate(tools)]
    body = " | ".join(f"f{i}" for i in range(len(tools)))
    if form is LLAMA:
        return StructuredOutputs(grammar="\n".join([f"start: {body}", *rules]))
    more = f' ("\\n" call){{0,{MAX_CALLS - 1}}}' if parallel else ""
    call = f'call: "{OPEN}\\n" body "\\n{CLOSE}"'
    return StructuredOutputs(grammar="\n".join([f"start: call{more}", call, f"body: {body}", *rules]))


def _call_schema(form: Format, function: Json) -> Json:
    """The name comes first, so that a stream can send it early. `$defs` move to the root, where `$ref` looks."""
    parameters = dict(function.get("parameters") or ANY_ARGUMENTS)
    definitions = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, form.arguments: parameters},
        "required": ["name", form.arguments],
        "additionalProperties": False,
        "x-guidance": SPACING,
        **definitions,
    }
