"""Text for terminals of any width: nothing is cut, and nothing is broken within a word."""

from __future__ import annotations

import pytest

from octavo.bar import cells
from octavo.cli.layout import definitions, packed, table

TITLES = ("model", "size", "where")
ROWS = [("smollm2-135m", "98.4 MB", "/home/me/models/a.gguf"), ("模型", "1.1 GB", "/home/me/models/b.gguf")]


def test_a_table_that_fits_has_a_row_a_line() -> None:
    assert table(TITLES, ROWS, "<><", 80).splitlines() == [
        "model            size  where",
        "smollm2-135m  98.4 MB  /home/me/models/a.gguf",
        "模型           1.1 GB  /home/me/models/b.gguf",
    ]


def test_a_pipe_gets_a_row_a_line_however_long() -> None:
    assert len(table(TITLES, [("a" * 500, "b", "c")], "<", None).splitlines()) == 2


def test_a_table_that_is_too_wide_is_turned() -> None:
    numbers = [[str(10**i) for i in range(4)] for _ in range(5)]
    titles = ["batch", "prompt", "prefill tok/s", "decode tok/s"]
    assert table(titles, numbers[:2], ">", 30).splitlines() == [
        "batch             1     1",
        "prompt           10    10",
        "prefill tok/s   100   100",
        "decode tok/s   1000  1000",
    ]
    pieces = table(titles, numbers, ">", 40).split("\n\n")
    assert [len(piece.splitlines()[0].split()) for piece in pieces] == [5, 2]  # four rows, then one
    assert table(TITLES, ROWS, "<", 30).splitlines()[:4] == [
        "model  smollm2-135m",
        "size   98.4 MB",
        "where  /home/me/models/a.gguf",
        "",
    ]


@pytest.mark.parametrize("width", [None, 10, 40, 80])
def test_no_value_is_ever_cut(width: int | None) -> None:
    shown = table(TITLES, ROWS, "<", width)
    assert all(cell in shown for row in ROWS for cell in row)


def test_definitions_continue_below_themselves() -> None:
    pairs = [("path", "/a/very/long/path-with-dashes/that-is-longer-than-the-line.gguf"), ("name", "one two three")]
    assert definitions(pairs, 16).splitlines() == [
        "path  /a/very/long/path-with-dashes/that-is-longer-than-the-line.gguf",
        "name  one two",
        "      three",
    ]
    assert definitions(pairs).count("\n") == 1


def test_figures_stay_whole() -> None:
    parts = ["prefill 12 tokens: 0.05 s", "decode 3 tokens", "peak memory 50 MB"]
    assert packed(parts) == " | ".join(parts)
    assert packed(parts, 50).splitlines() == ["prefill 12 tokens: 0.05 s | decode 3 tokens", "peak memory 50 MB"]
    assert packed(parts, 10).splitlines() == parts
    assert max(map(cells, packed(parts, 45).splitlines())) < 45
