"""The bar is one line of a terminal of any width, and nothing at all elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from octavo.bar import bar, cells, line, terminal_width

FACTS = ("120 of 491 MB", "72.6 MB/s", "5 s left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("label", ["loading", "qwen2.5-coder-0.5b, part 1 of 6", "模型 模型"])
def test_a_line_never_reaches_the_edge(label: str) -> None:
    for width in range(12, 200):
        for share in (0.0, 0.37, 1.0):
            assert cells(line(width, label, share, FACTS)) < width


def test_facts_are_whole_or_left_out() -> None:
    assert line(80, "x", 0.5, FACTS).endswith("  50%  120 of 491 MB, 72.6 MB/s, 5 s left")
    seen = [line(width, "loading", 0.5, FACTS) for width in range(20, 120)]
    for text in seen:
        tail = text.partition("50%")[2]
        assert tail in ("", *(f"  {', '.join(FACTS[:count])}" for count in (1, 2, 3)))
    assert line(40, "loading", 0.5, FACTS) == "loading ######.....  50%  120 of 491 MB"
    assert line(40, "qwen2.5-coder-0.5b, part 1 of 6", 0.5, FACTS) == "qwen2.5-coder-0.5b, part 1 of 6  50%"


def test_a_bar_replaces_itself_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    with bar() as drawn:
        drawn.draw("a long label", 1, 2, "a fact")
        drawn.draw("short", 1, 2)  # too soon after the first
        drawn.draw("short", 2, 2)
    _, first, last, clearing, end = terminal.getvalue().split("\r")
    assert first.startswith("a long label ###") and first.endswith("50%  a fact")
    assert last.startswith("short ###") and last.rstrip().endswith("100%") and len(last) >= len(first)
    assert not clearing.strip() and len(clearing) == len(last.rstrip()) and end == ""


def test_a_kept_bar_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with bar(keep=True) as drawn:
        drawn.draw("generating", 2, 2)
    assert terminal.getvalue().endswith("100%\n")


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with bar() as drawn:
        drawn.draw("loading", 1, 1)
    assert pipe.getvalue() == "" and not drawn.visible


def test_the_width_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    assert (terminal_width(Terminal()), terminal_width(io.StringIO())) == (33, None)
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal_width(Terminal()) == 80  # it does not say


def test_cells() -> None:
    assert [cells(text) for text in ("abc", "模型", "e\u0301", "é")] == [3, 4, 1, 1]
