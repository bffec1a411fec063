"""Finds tool calls in an answer while it is generated, and streams their arguments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from octavo.server.generation.tools import CLOSE, LLAMA, OPEN, PYTHON_TAG, Format

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*')


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text outside tool calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the JSON text of a call's arguments."""

    index: int
    text: str


Part = TextPart | CallStart | CallArguments


class ToolReader:
    """Parses one answer. `feed` takes text, `finish` ends it; both return the parts that are certain by then."""

    def __init__(self, form: Format):
        self.num_calls = 0
        self._form = form
        self._text = ""  # not parsed yet
        self._space = ""  # white space after a call
        self._after_call = False
        self._call: _Call | None = None
        self._llama_open = form is LLAMA  # the answer may still turn out to be a call

    def feed(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """Ends the answer: text that was held back as a possible tag is plain text."""
        rest, self._text = self._text, ""
        if self._call is not None:
            return self._finish_call(self._call, rest)
        parts: list[Part] = []
        self._add_text(rest, parts)
        return parts

    def _finish_call(self, call: _Call, rest: str) -> list[Part]:
        """Accepts a call without its closing tag if its JSON is complete."""
        self._call = None
        if call.begun:
            return []
        body = call.head + rest
        whole = _whole_call(body)
        if whole is None:
            return [TextPart((self._form.opens + body) if self._form.opens else body)]
        self.num_calls += 1
        return [CallStart(call.index, whole[0]), CallArguments(call.index, whole[1])]

    def _advance(self, parts: list[Part]) -> bool:
        """Parses one part. Returns False when more text is needed."""
        if self._call is not None:
            return self._read_call(self._call, parts)
        return self._look_for_json(parts) if self._form is LLAMA else self._look_for_tag(parts)

    def _look_for_tag(self, parts: list[Part]) -> bool:
        start = self._text.find(OPEN)
        if start < 0:
            keep = _possible_start(self._text, OPEN)
            self._add_text(self._text[: len(self._text) - keep], parts)
            self._text = self._text[len(self._text) - keep :]
            return False
        self._add_text(self._text[:start], parts)
        self._begin(self._text[start + len(OPEN) :])
        return True

    def _look_for_json(self, parts: list[Part]) -> bool:
        """Llama's format: a call is the whole answer, or follows another call."""
        text = self._text.lstrip().removeprefix(PYTHON_TAG).lstrip().lstrip(";")
        if self._llama_open and text.lstrip().startswith("{"):
            self._begin(text)
            return True
        if self._llama_open and (not text.strip() or PYTHON_TAG.startswith(text)):
            return False
        self._llama_open = False
        self._add_text(self._text, parts)
        self._text = ""
        return False

    def _begin(self, text: str) -> None:
        self._call, self._text, self._space = _Call(self.num_calls), text, ""
        self._after_call = True

    def _add_text(self, text: str, parts: list[Part]) -> None:
        """Emits text. White space after a call is held back, and dropped if another call follows."""
        text, self._space = self._space + text, ""
        if self._after_call and (not text or text.isspace()):
            self._space = text
        elif text:
            self._after_call = False
            parts.append(TextPart(text))

    def _read_call(self, call: _Call, parts: list[Part]) -> bool:
        if not call.begun:
            return self._read_head(call, parts)
        if not call.closed:
            used = call.scan(self._text)
            if used:
                parts.append(CallArguments(call.index, self._text[:used]))
            self._text = self._text[used:]
            if not call.closed:
                return False
        return self._read_tail()

    def _read_head(self, call: _Call, parts: list[Part]) -> bool:
        """Reads a call up to its arguments. If the arguments precede the name (rare), waits for the whole call."""
        call.head, self._text = call.head + self._text, ""
        if (match := _HEAD.match(call.head)) is not None and match.end() < len(call.head):
            self._start(call, json.loads(match[1], strict=False), call.head[match.end() :], parts)
            return True
        end = call.head.find(CLOSE) if self._form is not LLAMA else -1
        if end < 0:
            return False
        self._text = call.head[end + len(CLOSE) :]
        call.head = call.head[:end]
        self._call = None
        parts += self._finish_call(call, "")
        return True

    def _start(self, call: _Call, name: str, rest: str, parts: list[Part]) -> None:
        call.begun, self._text = True, rest
        self.num_calls += 1
        parts.append(CallStart(call.index, name))

    def _read_tail(self) -> bool:
        """Reads the end of a call: its closing brace and closing tag."""
        if self._form is LLAMA:
            tail = re.match(r"\s*\}", self._text)
            if tail is None:
                return False
            self._text, self._call = self._text[tail.end() :], None
            return True
        end = self._text.find(CLOSE)
        if end < 0:
            return False
        self._text, self._call = self._text[end + len(CLOSE) :], None
        return True


class _Call:
    """A call that is being read. begun: its name is known. closed: its arguments are complete."""

    def __init__(self, index: int):
        self.index = index
        self.head = ""
        self.begun = False
        self.closed = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, text: str) -> int:
        """Number of characters at the start of `text` that belong to the arguments (a JSON value)."""
        for position, character in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.closed = True
                    return position + (self._depth == 0)  # below 0: the call's own brace, after a bare value
        return len(text)


def _whole_call(text: str) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of a complete call, with its keys in any order."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _possible_start(text: str, tag: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `tag`."""
    longest = min(len(text), len(tag) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)
