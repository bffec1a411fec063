"""Converts the input items of /v1/responses to messages, which chat templates expect."""

from __future__ import annotations

from typing import Any

from octavo.server.http.errors import bad_request
from octavo.types import Json

ROLES = ("system", "developer", "user", "assistant")
TEXTS = ("input_text", "output_text", "reasoning_text", "text")


def to_messages(given: str | list[Json], instructions: str | None) -> list[Json]:
    """Converts the input. Raises ApiError that names the item at fault."""
    before = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*before, {"role": "user", "content": given}]
    if not given:
        raise bad_request("input: at least one item is needed", "input")
    messages: list[Json] = before
    for number, item in enumerate(given):
        _add(messages, item, f"input[{number}]")
    return messages


def _add(messages: list[Json], item: Json, field: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        message = {"role": _role(item, field), "content": _content(item.get("content"), f"{field}.content")}
        thought = messages.pop() if message["role"] == "assistant" and _is_thought(messages) else {}
        messages.append({**thought, **message})
    elif kind == "function_call":
        _add_call(messages, item, field)
    elif kind == "function_call_output":
        output = _content(item.get("output"), f"{field}.output")
        messages.append({"role": "tool", "tool_call_id": str(item.get("call_id")), "content": output})
    elif kind == "reasoning":
        if text := _content(item.get("content") or [], f"{field}.content"):
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
    else:
        raise bad_request(f"{field}: items of type {str(kind)[:40]!r} are not supported", field)


def _is_thought(messages: list[Json]) -> bool:
    """Whether the last message is reasoning whose answer follows."""
    last = messages[-1] if messages else {}
    return "reasoning_content" in last and not last["content"] and not last.get("tool_calls")


def _role(item: Json, field: str) -> str:
    if item.get("role") not in ROLES:
        raise bad_request(f"{field}.role: must be one of {', '.join(ROLES)}", f"{field}.role")
    return str(item["role"])


def _content(content: Any, field: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"{field}: a text or a list of parts is needed", field)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXTS else None
        if not isinstance(text, str):
            raise bad_request(f"{field}: only parts of text are supported", field)
        texts.append(text)
    return "\n".join(texts)


def _add_call(messages: list[Json], item: Json, field: str) -> None:
    """Adds a call. Consecutive calls form one message."""
    name, arguments = item.get("name"), item.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise bad_request(f"{field}: a function_call needs a name and arguments", field)
    call = {"id": str(item.get("call_id")), "type": "function", "function": {"name": name, "arguments": arguments}}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
