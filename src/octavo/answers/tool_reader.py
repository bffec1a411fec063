"""Finds tool calls in an answer while it is generated, and streams their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from octavo.answers.json_object import JsonObject
from octavo.answers.parts import CallArguments, CallStart, Part, TextPart
from octavo.answers.tool_call import begins_arguments, cannot_be_call, name_of, whole_call
from octavo.answers.tool_formats import Format, Tag

FENCE = Tag("```", "```", r"(?:json|tool_calls?|tool_code)?\s*[\[\s]*")
BARE = Tag("", "", r"[\[\s]*")
MAX_HEAD = 96  # characters between a tag and the brace of its call
_HEAD_CHARACTERS = re.compile(r"[\w\s.>\[\]`-]")
_PAUSES = ",;}]"  # may follow a call: separators, the end of a list, braces that were doubled
# White space is bounded, because it is held back until it is decided: a small model can write it without end.
_LINE_START = r"(?<=\n)[ \t]{0,32}"
_LIST = r"\[\s{0,32}"
_UNDECIDED = re.compile(_LINE_START + rf"(?:`{{0,2}}|{_LIST})\Z")  # may become a fence, or a list of calls


@dataclass(slots=True)
class _Call:
    """What may become a call.

    raw: its text so far, from the tag on. head: the part of it between the tag and the brace.
    object: what the brace opens. named: the name of the tool stood before the brace.
    begun: it is a call, and its name has been reported. streamed: the key of the arguments that are being streamed.
    """

    tag: Tag
    raw: str
    head: str = ""
    object: JsonObject | None = None
    named: bool = False
    begun: bool = False
    streamed: str | None = None

    @property
    def ends(self) -> list[str]:
        """What closes the call."""
        return [end for end in (self.tag.closes, "```" if "```" in self.head else "") if end]


class ToolReader:
    """Parses one answer. `feed` takes text, `finish` ends it; both return the parts that are certain by then.

    form: where calls are looked for. tools: the tools that may be called; the value says whether one takes arguments.
    forced: the answer consists of calls. If its end cuts one off, the call is reported as far as it is known.
    What looks like a call but is not JSON, has no arguments or calls another tool is plain text. The parts joined do
    not depend on how the text was split.
    """

    def __init__(self, form: Format, tools: Mapping[str, bool], forced: bool = False):
        self.num_calls = 0
        self._tools = tools
        self._forced = forced
        self._form = form
        self._tags = {tag.opens: tag for tag in form.tags}
        self._prefixes = _prefixes(form)
        self._text = ""  # not parsed yet
        self._before = "\n"  # the character before `_text`
        self._space = ""  # white space at the start or after a call: dropped if a call follows
        self._quiet = True  # nothing but such white space so far
        self._fenced = False  # within a ``` fence that is not a call
        self._call: _Call | None = None
        self._after: _Call | None = None  # the call that has just ended
        self._broken = False  # within arguments that are not JSON
        self._other: JsonObject | None = None  # an object that is not a call: what is in it is not looked at

    def feed(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while self._text and self._advance(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """Ends the answer. Text that was held back as the start of a call is plain text, unless calls were forced."""
        parts: list[Part] = []
        if self._forced and not self._broken:
            self._cut_off(self._call, parts)
            return parts
        if self._call is not None and not self._call.begun:
            self._add_text(self._call.raw, parts)
        if self._broken and self._text:
            parts.append(CallArguments(self.num_calls - 1, self._text))
        else:
            self._add_text(self._text, parts)
        if self._space and not self.num_calls:
            parts.append(TextPart(self._space))
        self._text = self._space = ""
        return parts

    def _cut_off(self, call: _Call | None, parts: list[Part]) -> None:
        """Reports a forced call that is cut off before its arguments, if it is known which tool is meant."""
        if call is not None and call.begun:
            return
        name = None if call is None or call.object is None else name_of(call.object)
        if not self.num_calls and len(self._tools) == 1:
            (name,) = self._tools
        if name is not None and name in self._tools:
            self._start(name, parts)

    def _advance(self, parts: list[Part]) -> bool:
        """Parses some of the text. Returns False if more is needed."""
        if self._call is not None and self._broken:
            return self._read_broken(self._call, parts)
        if self._call is not None:
            return self._read_call(self._call, parts)
        if self._other is not None:
            return self._skip_object(self._other, parts)
        if self._after is not None:
            return self._read_pause(self._after)
        return self._look_for_call(parts)

    def _look_for_call(self, parts: list[Part]) -> bool:
        window = self._before + self._text
        opening = _opening(self._form, self._fenced).search(window, 1)
        end = self._undecided(window) if opening is None else opening.start()
        self._add_text(window[1:end], parts)
        if opening is None:
            self._text = window[end:]
            return False
        self._text = window[opening.end() :]
        if opening["fence"] and (self._fenced or not self._form.fenced):
            self._fenced = not self._fenced
            self._add_text(opening[0], parts)
        else:
            tag = FENCE if opening["fence"] else self._tags.get(opening[0], BARE)
            self._call = _Call(tag, opening[0])
        return True

    def _undecided(self, window: str) -> int:
        """Where the end of the text begins that may be the start of a call."""
        held = next((len(prefix) for prefix in self._prefixes if window.endswith(prefix, 1)), 0)
        line = _UNDECIDED.search(window, 1)
        return min(len(window) - held, len(window) if line is None else line.start())

    def _add_text(self, text: str, parts: list[Part]) -> None:
        if not text:
            return
        self._before = text[-1]
        text, self._space = self._space + text, ""
        if self._quiet and text.isspace():
            self._space = text
            return
        self._quiet = False
        parts.append(TextPart(text))

    def _read_call(self, call: _Call, parts: list[Part]) -> bool:
        """Reads characters until it is decided whether they are a call, and then until its end."""
        used = 0
        while used < len(self._text) and self._call is call and not self._broken:
            char = self._text[used]
            step = self._read_head if call.object is None else self._read_object
            used += step(call, char, parts)
        self._stream(call, parts)
        self._text = self._text[used:]
        return self._call is not call or self._broken

    def _read_broken(self, call: _Call, parts: list[Part]) -> bool:
        """Passes on the rest of arguments that are not JSON: the client sees what the model wrote."""
        end = self._text.find(call.tag.closes) if call.tag.closes else -1
        kept = len(self._text) - _possible_start(self._text, call.tag.closes) if end < 0 else end
        if kept and call.streamed is not None:
            parts.append(CallArguments(self.num_calls - 1, self._text[:kept]))
        self._text = self._text[kept:]
        if end >= 0:
            self._broken = False
            self._end(call)
        return end >= 0

    def _read_head(self, call: _Call, char: str, parts: list[Part]) -> bool:
        """Reads a character between the tag and the brace of a call. Returns whether it belongs there."""
        fits = len(call.head) < MAX_HEAD and _HEAD_CHARACTERS.match(char) and not (char == "`" and call.tag is FENCE)
        found = re.fullmatch(call.tag.head, call.head) if char == "{" else None
        if not fits and found is None:
            self._reject(call, parts)
            return False
        if found is None:
            call.head += char
            call.raw += char
            return True
        call.object = JsonObject()
        if "name" in found.groupdict() and found["name"]:
            call.named = True
            call.object.push_all('{"name": ' + json.dumps(found["name"]) + ', "arguments": ')
        return self._read_object(call, char, parts)

    def _read_object(self, call: _Call, char: str, parts: list[Part]) -> bool:
        """Reads a character of the call's object. Returns whether it belongs to it."""
        read = call.object
        assert read is not None
        read.push(char)
        if read.broken:
            if not call.begun:
                self._reject(call, parts)
            elif read.key is None:
                self._end(call)
            else:
                self._broken = True
            return False
        if call.begun:
            if read.closed or (call.named and read.key is None):
                self._end(call)
            return True
        call.raw += char
        if read.closed:
            self._decide(call, read, parts)
        elif cannot_be_call(read, self._tools):
            self._reject(call, parts)
            self._other = None if call.named else read
        elif char == "{" and begins_arguments(read):
            name = name_of(read) or ""
            self._begin(call, name, parts)
            call.streamed = read.key if self._tools[name] else None
        return True

    def _begin(self, call: _Call, name: str, parts: list[Part]) -> None:
        call.begun = True
        self._start(name, parts)

    def _start(self, name: str, parts: list[Part]) -> None:
        self._space = ""
        parts.append(CallStart(self.num_calls, name))
        if not self._tools[name]:
            parts.append(CallArguments(self.num_calls, "{}"))
        self.num_calls += 1

    def _stream(self, call: _Call, parts: list[Part]) -> None:
        if call.object is not None and call.streamed is not None and (text := call.object.take(call.streamed)):
            parts.append(CallArguments(self.num_calls - 1, text))

    def _decide(self, call: _Call, read: JsonObject, parts: list[Part]) -> None:
        """Decides whether a complete object is a call, if that could not be decided before."""
        name, arguments = whole_call(read)
        if arguments is None and call.tag is not BARE and not self._tools.get(name, True):
            arguments = "{}"
        if name not in self._tools or arguments is None:
            self._reject(call, parts)
            return
        self._begin(call, name, parts)
        if self._tools[name]:
            parts.append(CallArguments(self.num_calls - 1, arguments))
        self._end(call)

    def _end(self, call: _Call) -> None:
        self._call, self._after, self._quiet = None, call, True

    def _reject(self, call: _Call, parts: list[Part]) -> None:
        self._call = None
        self._fenced = self._fenced or call.tag is FENCE
        self._add_text(call.raw, parts)

    def _skip_object(self, other: JsonObject, parts: list[Part]) -> bool:
        used = 0
        while used < len(self._text) and not (other.closed or other.broken):
            other.push(self._text[used])
            used += not other.broken
        self._add_text(self._text[:used], parts)
        self._text = self._text[used:]
        if other.closed or other.broken:
            self._other = None
        return self._other is None

    def _read_pause(self, call: _Call) -> bool:
        """Reads what may follow a call: separators, its closing tag, or the next call in the same tag."""
        rest = self._text.lstrip()
        self._space += self._text[: len(self._text) - len(rest)]
        self._text = rest
        ends = [end for end in call.ends if rest.startswith(end[: len(rest)])]
        if not rest or any(len(rest) < len(end) for end in ends):
            return False
        if ends:
            self._text = rest[len(ends[0]) :]
            self._before, self._space = ends[0][-1], ""
            self._after = None if ends[0] == call.tag.closes else call
        elif rest[0] in _PAUSES:
            self._text = rest[1:]
        else:
            self._before = "\n" if "\n" in self._space else "}"
            self._after = None
            if rest[0] == "{":
                self._call = _Call(call.tag, "")
        return True


@cache
def _prefixes(form: Format) -> tuple[str, ...]:
    """The proper prefixes of all tags, longest first."""
    found = {tag.opens[:size] for tag in form.tags for size in range(1, len(tag.opens))}
    return tuple(sorted(found, key=len, reverse=True))


@cache
def _opening(form: Format, fenced: bool) -> re.Pattern[str]:
    """What may begin a call, or a fence. The group `fence` is set for a fence."""
    tags = [re.escape(tag.opens) for tag in form.tags]
    bare = [_LINE_START + rf"(?=\{{|{_LIST}\{{)"] if form.bare and not fenced else []
    return re.compile("|".join([*tags, _LINE_START + "(?P<fence>```)", *bare]))


def _possible_start(text: str, tag: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `tag`."""
    longest = min(len(text), len(tag) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)
