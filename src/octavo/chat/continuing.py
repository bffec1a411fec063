"""Ends a prompt within its last message, so that the answer continues that message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.errors import RequestError

# Appended to the last message: what a template writes from there on is cut off. The space at the end shows whether the
# template strips messages; then the prompt is stripped too, as in transformers.
MARK = "\u2060the answer continues here\u2060 "


def check(messages: Sequence[dict[str, Any]]) -> None:
    """Raises RequestError if the last message cannot be continued. messages: normalised."""
    last = messages[-1] if messages else {}
    if last.get("tool_calls"):
        raise RequestError("messages: the last message calls tools; it cannot be continued", "messages")
    if not isinstance(last.get("content"), str):
        raise RequestError("messages: the last message has no text to continue", "messages")


def marked(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the messages with the mark. Raises RequestError as `check`."""
    check(messages)
    last = messages[-1]
    return [*messages[:-1], {**last, "content": last["content"] + MARK}]


def cut(prompt: str) -> str:
    """Returns the prompt up to the mark. Raises RequestError if the template did not write the last message."""
    before, mark, after = prompt.rpartition(MARK.rstrip())
    if not mark:
        problem = "messages: this chat template does not write the last message, so it cannot be continued"
        raise RequestError(problem, "messages")
    return before if after.startswith(" ") else before.rstrip()
