"""Converts Anthropic's messages and tools to OpenAI's format, which chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from octavo.server.http.errors import bad_request
from octavo.types import Json


def tools_in(tools: Sequence[Json]) -> list[Json]:
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(tool: Json) -> Json:
    described = {"description": tool["description"]} if "description" in tool else {}
    return {"name": tool["name"], **described, "parameters": tool["input_schema"]}


def to_openai(messages: Sequence[Json], system: str | list[Json] | None) -> list[Json]:
    """Converts messages. Raises ApiError that names the block at fault."""
    before = [{"role": "system", "content": _text(system, "system")}] if system else []
    found = [made for i, message in enumerate(messages) for made in _message(message, f"messages[{i}].content")]
    return [*before, *found]


def _message(message: Json, field: str) -> Iterator[Json]:
    """Yields one or more messages, because each tool result becomes a separate message."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = [(_kind(block, field), block) for block in content]
    for kind, block in blocks:
        if kind == "tool_result":
            result = _text(block.get("content") or "", field)
            yield {"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": result}
    text = "\n".join(_block_text(block, field) for kind, block in blocks if kind == "text")
    calls = [_call(block, field) for kind, block in blocks if kind == "tool_use"]
    thought = "\n".join(str(block.get("thinking", "")) for kind, block in blocks if kind == "thinking")
    more: Json = {"reasoning_content": thought} if thought else {}
    if calls:
        yield {"role": role, "content": text, "tool_calls": calls, **more}
    elif text or not any(kind == "tool_result" for kind, _ in blocks):
        yield {"role": role, "content": text, **more}


def _kind(block: Json, field: str) -> str:
    kind = block.get("type")
    if kind not in ("text", "tool_use", "tool_result", "thinking"):
        raise bad_request(f"{field}: blocks of type {str(kind)[:40]!r} are not supported", field)
    return str(kind)


def _text(content: str | list[Json], field: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise bad_request(f"{field}: a text or a list of blocks is needed", field)
    return "\n".join(_block_text(block, field) for block in content)


def _block_text(block: Json, field: str) -> str:
    text = block.get("text")
    if block.get("type") != "text" or not isinstance(text, str):
        raise bad_request(f"{field}: only blocks of type 'text' can be read here", field)
    return text


def _call(block: Json, field: str) -> Json:
    name, given = block.get("name"), block.get("input", {})
    if not isinstance(name, str) or not isinstance(given, dict):
        raise bad_request(f"{field}: a tool_use block needs a name and an input", field)
    function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": str(block.get("id")), "type": "function", "function": function}
