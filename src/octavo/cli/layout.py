"""Plain text that fits a terminal of any width: tables, lists of definitions, lines of figures.

A value is never cut and never broken, since people copy paths and names. `width` None means a pipe: rows are single
lines of any length there, for `grep` and `cut`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from octavo.bar import cells

GAP = "  "
NARROWEST = 10  # columns of a text beside its term


class Whole(str):
    """A text that no line break may divide, also between words: a path, or a command to copy."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<", width: int | None = None) -> str:
    """Returns a table with a row a line. One that is too wide is turned: titles go down, as many rows as fit across.

    align: "<" or ">" for each column; the last one holds for the rest.
    """
    upright = aligned([titles, *rows], align)
    if fits(upright, width):
        return "\n".join(upright)
    for across in range(len(rows), 1, -1):
        pieces = [turned(titles, rows[start : start + across], "<>") for start in range(0, len(rows), across)]
        if all(fits(piece, width) for piece in pieces):
            break
    else:
        return "\n\n".join(definitions(list(zip(titles, row, strict=True)), width) for row in rows)
    return "\n\n".join("\n".join(piece) for piece in pieces)


def turned(titles: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    return aligned(list(zip(titles, *rows, strict=True)), align)


def aligned(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Returns lines whose columns begin (or end, for ">") below each other."""
    widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    sides = align.ljust(len(widths), align[-1])
    return [GAP.join(map(padded, row, widths, sides)).rstrip() for row in rows]


def padded(text: str, width: int, side: str) -> str:
    fill = " " * (width - cells(text))
    return fill + text if side == ">" else text + fill


def fits(lines: Sequence[str], width: int | None) -> bool:
    return width is None or max(map(cells, lines)) < width


def definitions(pairs: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Returns terms with their texts beside them. A text that is too long continues below itself, between words."""
    start = max(cells(term) for term, _ in pairs) + len(GAP)
    lines = []
    for term, text in pairs:
        first, *more = wrapped(text, None if width is None else max(width - 1 - start, NARROWEST))
        lines += [padded(term, start, "<") + first, *(" " * start + each for each in more)]
    return "\n".join(line.rstrip() for line in lines)


def wrapped(text: str, width: int | None) -> list[str]:
    """Returns the text in lines of whole words; a word that is longer than a line gets one for itself."""
    if width is None or cells(text) <= width or isinstance(text, Whole):
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def packed(parts: Sequence[str], width: int | None = None, separator: str = " | ") -> str:
    """Returns the parts in one line, or without their padding in as few lines as hold them whole."""
    if fits([whole := separator.join(parts)], width):
        return whole.rstrip()
    lines = [parts[0].strip()]
    for part in map(str.strip, parts[1:]):
        longer = lines[-1] + separator + part
        if fits([longer], width):
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)
