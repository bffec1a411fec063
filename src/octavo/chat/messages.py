"""Converts chat messages from OpenAI's form to the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.errors import RequestError


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Joins content parts into one text, and parses the arguments of tool calls. Raises RequestError."""
    if not isinstance(messages, list | tuple):
        raise RequestError(f"messages must be a list of messages; got {type(messages).__name__}", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Mapping[str, Any], field: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{field}: an object with a role is needed", field=field)
    result = dict(message)
    if "content" in result:
        result["content"] = _text(result["content"], f"{field}.content")
    if isinstance(calls := result.get("tool_calls"), list):
        result["tool_calls"] = [_tool_call(call) for call in calls]
    return result


def _text(content: Any, field: str) -> str | None:
    """Joins parts with newlines, like vLLM and llama.cpp."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{field}: text or a list of parts is needed", field=field)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{field}: only parts of type 'text' are supported, not {kind!r}", field=field)
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_call(call: Any) -> Any:
    """Parses arguments, which the API sends as JSON text: a template's `tojson` would quote that text again."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call  # the model's own invalid output, sent back: keep it as it is
    return {**call, "function": {**function, "arguments": arguments}}
