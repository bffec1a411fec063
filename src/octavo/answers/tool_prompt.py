"""Prepares messages and tools for a chat template, which may know nothing of tools."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.answers.tool_formats import CLOSE, HERMES, MISTRAL, MISTRAL_TAG, OPEN, Format
from octavo.types import Json

INTRODUCTION = """\
You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments{where}:
{example}"""


def prepared(
    template: str, form: Format, messages: Sequence[Json], tools: Sequence[Json]
) -> tuple[list[Json], list[Json] | None]:
    """Returns the messages and tools to render with a chat template. form: the format of calls that the model knows.

    If the template knows no tools, they are described in a system message, and None is returned for them. If it knows
    no calls either, calls and their results become text.
    """
    talk = short_ids(messages) if form is MISTRAL else list(messages)
    if "tools" in template:
        return talk, list(tools) or None
    if "tool_calls" not in template:
        talk = [_plain(form, message) for message in talk]
    return _explained(form, talk, tools) if tools else talk, None


def _explained(form: Format, messages: Sequence[Json], tools: Sequence[Json]) -> list[Json]:
    """Adds a description of the tools to the system message."""
    text = INTRODUCTION.format(
        tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools),
        where=f" within {OPEN}{CLOSE} XML tags" if form is HERMES else "",
        example=_written(form, "<function-name>", "<args-json-object>"),
    )
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def short_ids(messages: Sequence[Json]) -> list[Json]:
    """Replaces the ids of tool calls. Mistral's templates refuse any but those of 9 letters and digits."""
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: Json) -> Json:
    made = dict(message)
    if "tool_call_id" in made:
        made["tool_call_id"] = _short(made["tool_call_id"])
    if made.get("tool_calls"):
        made["tool_calls"] = [{**call, "id": _short(call.get("id"))} for call in made["tool_calls"]]
    return made


def _short(call_id: object) -> str:
    text = str(call_id)
    return text if re.fullmatch("[A-Za-z0-9]{9}", text) else hashlib.sha256(text.encode()).hexdigest()[:9]


def _plain(form: Format, message: Json) -> Json:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"}
    calls = [_call(form, call) for call in message.get("tool_calls") or ()]
    content = "\n".join([*filter(None, [message.get("content")]), *calls])
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content}


def _call(form: Format, call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return _written(form, json.dumps(function.get("name")), text)


def _written(form: Format, name: str, arguments: str) -> str:
    """A call as a model writes it. name, arguments: as JSON texts."""
    body = f'{{"name": {name}, "{form.arguments}": {arguments}}}'
    if form is MISTRAL:
        return f"{MISTRAL_TAG} [{body}]"
    return f"{OPEN}\n{body}\n{CLOSE}" if form is HERMES else body
