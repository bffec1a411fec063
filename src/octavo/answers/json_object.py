"""Reads a JSON object character by character, as models write JSON, and corrects it on the way."""

from __future__ import annotations

import json
import re
from enum import Enum, auto

WHITE = " \t\r\n"
MAX_DEPTH = 200  # the corrected text is parsed recursively later
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_WORD_CHARACTERS = re.compile(r"[-+.\w]", re.ASCII)


class _Expect(Enum):
    """What the next character may be."""

    FIRST_KEY = auto()  # after "{": a key, the end, or a second brace
    KEY = auto()
    COLON = auto()
    FIRST_VALUE = auto()  # after "[": a value or the end
    VALUE = auto()
    NEXT = auto()  # after a value: a comma or the end
    SECOND_BRACE = auto()  # after the end of an object with doubled braces
    FIRST = auto()  # the first character of a string that is a value
    STRING = auto()  # the rest of a string
    EMPTY = auto()  # after "": a third quote, or what follows an empty string
    TRIPLE = auto()  # the rest of a string in triple quotes
    ESCAPE = auto()  # the character after a backslash
    WORD = auto()  # the rest of a number, true, false or null


class JsonObject:
    """One object. `push` takes its characters, from the opening brace on.

    key: that of the value being read, if it is a value of the object itself.
    closed: the object is complete. broken: the last character cannot belong to the object.

    The text of values is corrected so that a JSON parser takes it:

        {{"a": {{"b": 1}}}}     each pair of braces becomes one: some templates teach calls with doubled braces
        a line break in a string, \\d, \\'      become \\n, \\\\d and '
        a string in triple quotes, as in Python    becomes a string in quotes
        True, False, None       become true, false and null
    """

    def __init__(self) -> None:
        self.key: str | None = None
        self.closed = False
        self.broken = False
        self._values: dict[str, list[str]] = {}  # by key: pieces of the text of its value
        self._pieces: list[str] = []  # of the value of `key`
        self._expect = _Expect.VALUE
        self._open: list[str] = []  # the objects and arrays that are open: "{", "{{" or "["
        self._held = ""  # the key, the word or the quotes that are being read
        self._string = _Expect.STRING  # the kind of string that is being read
        self._in_key = False  # whether the string that is being read is a key

    def push(self, char: str) -> None:
        assert not (self.closed or self.broken)
        if self._expect is _Expect.WORD:
            if _WORD_CHARACTERS.match(char):
                self._held += char
                return
            self._end_word()
        if self._expect is _Expect.EMPTY and char != '"':
            self._add('"')
            self._end_value()
        if self._expect is _Expect.SECOND_BRACE and char not in WHITE:
            self._expect = _Expect.NEXT
            if char == "}":
                return
        if not self.broken:
            self._read(char)

    def push_all(self, text: str) -> None:
        """Pushes characters until the object is complete or broken."""
        for char in text:
            if self.closed or self.broken:
                break
            self.push(char)

    @property
    def depth(self) -> int:
        """How many objects and arrays are open."""
        return len(self._open)

    def take(self, key: str) -> str:
        """Returns the text of a value, as far as it has been read and was not taken before."""
        pieces = self._values.get(key, [])
        text = "".join(pieces)
        pieces.clear()
        return text

    def whole(self, key: str) -> str | None:
        """Returns the text of a value once it is complete. The first of two values with one key counts."""
        return None if key == self.key or key not in self._values else "".join(self._values[key])

    def _read(self, char: str) -> None:
        match self._expect:
            case _Expect.FIRST if char == '"':
                self._expect = _Expect.EMPTY
            case _Expect.FIRST | _Expect.STRING:
                self._string = _Expect.STRING
                self._read_string(char)
            case _Expect.EMPTY:
                self._expect, self._held, self._string = _Expect.TRIPLE, "", _Expect.TRIPLE
            case _Expect.TRIPLE:
                self._read_triple(char)
            case _Expect.ESCAPE:
                self._read_escape(char)
            case _ if char in WHITE:
                self._add(char)
            case _Expect.FIRST_KEY | _Expect.KEY:
                self._read_key(char)
            case _Expect.COLON:
                self._add(char)
                self._expect, self.broken = _Expect.VALUE, char != ":"
            case _Expect.FIRST_VALUE if char == "]":
                self._end_container(char)
            case _Expect.FIRST_VALUE | _Expect.VALUE:
                self._read_value(char)
            case _:
                self._read_next(char)

    def _add(self, text: str) -> None:
        """Adds text to the key of the object, or to the value, that is being read."""
        if self._in_key and len(self._open) == 1:
            self._held += text
        elif self.key is not None:
            self._pieces.append(text)

    def _read_string(self, char: str) -> None:
        if char == "\\":
            self._expect = _Expect.ESCAPE
            return
        self._add(_plain(char))
        if char == '"' and self._in_key:
            self._end_key()
        elif char == '"':
            self._end_value()
        else:
            self._expect = _Expect.STRING

    def _read_triple(self, char: str) -> None:
        if char == '"':
            self._held += char
            if self._held == '"""':
                self._add(char)
                self._end_value()
            return
        self._add('\\"' * len(self._held))
        self._held = ""
        if char == "\\":
            self._expect = _Expect.ESCAPE
        else:
            self._add(_plain(char))

    def _read_escape(self, char: str) -> None:
        self._add(f"\\{char}" if char in '"\\/bfnrtu' else char if char == "'" else f"\\\\{_plain(char)}")
        self._expect = self._string

    def _read_key(self, char: str) -> None:
        first = self._expect is _Expect.FIRST_KEY
        if char == '"':
            self._in_key, self._held = True, ""
            self._add(char)
            self._expect = _Expect.STRING
        elif char == "}" and first:
            self._end_container(char)
        elif char == "{" and first and self._open[-1] == "{":
            self._open[-1] = "{{"
        else:
            self.broken = True

    def _end_key(self) -> None:
        self._in_key = False
        self._expect = _Expect.COLON

    def _read_value(self, char: str) -> None:
        if len(self._open) == 1:
            self._begin_field()
        if char in "{[":
            self._begin_container(char)
        elif char == '"':
            self._add(char)
            self._expect = _Expect.FIRST
        elif self._open and _WORD_CHARACTERS.match(char):
            self._held = char
            self._expect = _Expect.WORD
        else:
            self.broken = True

    def _begin_field(self) -> None:
        self.key, self._pieces = _unquoted(self._held), []
        self._values.setdefault(self.key, self._pieces)

    def _begin_container(self, char: str) -> None:
        self._add(char)
        self.broken = len(self._open) == MAX_DEPTH or not (self._open or char == "{")
        self._open.append(char)
        self._expect = _Expect.FIRST_KEY if char == "{" else _Expect.FIRST_VALUE

    def _end_word(self) -> None:
        word = _WORDS.get(self._held, self._held)
        self.broken = not (word in _WORDS or _NUMBER.fullmatch(word))
        self._add(word)
        self._end_value()

    def _end_value(self) -> None:
        self._expect = _Expect.NEXT
        if len(self._open) == 1:
            self.key = None

    def _read_next(self, char: str) -> None:
        if char == ",":
            self._add(char)
            self._expect = _Expect.VALUE if self._open[-1] == "[" else _Expect.KEY
        elif char in "}]":
            self._end_container(char)
        else:
            self.broken = True

    def _end_container(self, char: str) -> None:
        opened = self._open.pop()
        if (char == "]") != (opened == "["):
            self.broken = True
        elif not self._open:
            self.closed = True
        else:
            self._add(char)
            self._end_value()
            if opened == "{{":
                self._expect = _Expect.SECOND_BRACE


def parsed(text: str) -> JsonObject | None:
    """Reads a whole object; None if the text is none."""
    read = JsonObject()
    read.push_all(text)
    return read if read.closed else None


def _plain(char: str) -> str:
    """A character as it may stand in a JSON string."""
    return char if char >= " " else json.dumps(char)[1:-1]


def _unquoted(text: str) -> str:
    """Returns the string that a JSON string stands for; an impossible key for an invalid one."""
    try:
        value = json.loads(text)
    except ValueError:  # \u without four digits
        return ""
    return str(value)
