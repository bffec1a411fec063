"""Tool calls in models' own words: how they are asked for, and which grammar forces them.

Two formats cover most open models:

    hermes  <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>     Hermes, Qwen, SmolLM and others
    llama   {"name": ..., "parameters": {...}}, the whole answer            Llama 3.x

A template that knows no tools gets them in a system message, in hermes format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo.types import Json, StructuredOutputs

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # what Llama 3.1 may put before a call
ANY_ARGUMENTS: Json = {"type": "object"}
MAX_CALLS = 16  # in one answer that must call
# As `json.dumps` writes, which is how models have seen calls; a small one given a choice fills the answer with spaces.
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
    """arguments: the key of a call's arguments. opens, closes: what stands around it."""

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
    """The conversation for a template that knows no tools: they, their calls and results become plain text."""
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
    """A grammar of answers that call one of these tools, or several in a row if `parallel`, and say nothing else."""
    rules = [f"f{i}: %json {json.dumps(_call_schema(form, tool['function']))}" for i, tool in enumerate(tools)]
    body = " | ".join(f"f{i}" for i in range(len(tools)))
    if form is LLAMA:
        return StructuredOutputs(grammar="\n".join([f"start: {body}", *rules]))
    more = f' ("\\n" call){{0,{MAX_CALLS - 1}}}' if parallel else ""
    call = f'call: "{OPEN}\\n" body "\\n{CLOSE}"'
    return StructuredOutputs(grammar="\n".join([f"start: call{more}", call, f"body: {body}", *rules]))


def _call_schema(form: Format, function: Json) -> Json:
    """The name comes first, so that a stream can tell it early. Definitions move to where their references look."""
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
