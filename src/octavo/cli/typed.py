"""What a person types in a chat, or a script pipes into it: lines, texts of several lines, and pasted texts.

| typed | becomes |
|---|---|
| a line that begins with a slash | a command |
| lines that end with a backslash | one message with the next line |
| lines between two times three quotes | one message, exactly as it stands |
| a pasted text of several lines | one message |
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from octavo.cli.console import complain

QUOTES = '"""'
FIRST, NEXT = ">>> ", "... "  # prompts on a terminal
PASTE_SECONDS = 0.02  # nobody types a line this fast


class Entry(NamedTuple):
    """A message, or a command with its name (which begins with a slash) and the text behind it."""

    text: str
    command: str = ""


def entries(read: Callable[[str], str]) -> Iterator[Entry]:
    """Yields what is typed, except blank lines, until the input ends. Ctrl-C drops what was begun.

    read: shows a prompt and returns a line, or several that were pasted; raises EOFError at the end.
    """
    while True:
        try:
            entry = whole(read(FIRST), read)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if entry.text or entry.command:
            yield entry


def whole(text: str, read: Callable[[str], str]) -> Entry:
    """Returns the entry that begins with `text`, and reads the lines that belong to it."""
    text = text.strip("\n")  # a line that was pasted with its end is a line
    if "\n" in text:
        return Entry(text)
    line = text.strip()
    command, _, rest = line.partition(" ") if line.startswith("/") else ("", "", line)
    if rest.lstrip().startswith(QUOTES):
        return Entry(quoted(rest.lstrip()[len(QUOTES) :], read), command)
    while rest.endswith("\\"):
        try:
            rest = f"{rest[:-1]}\n{read(NEXT)}"
        except EOFError:
            rest = rest[:-1]
            break
    return Entry(rest.strip(), command)


def quoted(text: str, read: Callable[[str], str]) -> str:
    """Returns the text up to the closing quotes at the end of a line."""
    while not text.rstrip().endswith(QUOTES):
        try:
            text = f"{text}\n{read(NEXT)}"
        except EOFError:
            complain(f"the text after {QUOTES} was not closed, so it was not sent")
            raise
    return text.rstrip()[: -len(QUOTES)].strip("\n")


def read_line(prompt: str) -> str:
    """Reads a line without a terminal."""
    return input("")


def read_pasted(prompt: str) -> str:
    """Reads from a terminal that does not mark what is pasted: lines that come within a moment belong together.

    Commands typed ahead stay apart.
    """
    text = input(prompt)
    while not text.startswith("/") and select.select([sys.stdin], [], [], PASTE_SECONDS)[0]:
        try:
            text += "\n" + input("")
        except EOFError:
            break
    return text
