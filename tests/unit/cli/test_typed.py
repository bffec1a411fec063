"""What becomes a message, what a command, and what nothing."""

from __future__ import annotations

import pytest

from octavo.cli.typed import FIRST, NEXT, Entry, entries, read_pasted


def typed(*lines: str | type[BaseException]) -> tuple[list[Entry], list[str]]:
    """Returns the entries that these lines make (an exception is raised in place of one), and the prompts shown."""
    left, prompts = [*lines], []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        line = left.pop(0) if left else EOFError
        if isinstance(line, str):
            return line
        raise line

    return list(entries(read)), prompts


def messages(*lines: str | type[BaseException]) -> list[str]:
    found, _ = typed(*lines)
    assert not any(entry.command for entry in found)
    return [entry.text for entry in found]


def test_a_line_is_a_message_and_a_blank_one_is_none() -> None:
    assert messages("hello there", "  ", "", " again ") == ["hello there", "again"]


def test_a_pasted_text_is_one_message_as_it_stands() -> None:
    code = 'def f(x):\n    """A docstring."""\n    return \\\n        x'
    assert messages(code, "/usr/bin\n/etc") == [code, "/usr/bin\n/etc"]


def test_quotes_hold_several_lines() -> None:
    assert messages('"""one', "", "  /two", 'three"""') == ["one\n\n  /two\nthree"]
    assert messages('"""', "one", "two\nthree", '"""  ', "more") == ["one\ntwo\nthree", "more"]
    assert messages('"""one line"""') == ["one line"]
    assert messages('"""/not a command"""') == ["/not a command"]


def test_a_backslash_at_the_end_continues() -> None:
    assert messages("one\\", "two\\", "three", "four") == ["one\ntwo\nthree", "four"]
    assert messages("the end\\") == ["the end"]
    _, prompts = typed("one\\", "two")
    assert prompts == [FIRST, NEXT, FIRST]


def test_commands() -> None:
    found, _ = typed("/set top_k 4", "/clear", '/system """be', 'brief"""')
    assert found == [Entry("top_k 4", "/set"), Entry("", "/clear"), Entry("be\nbrief", "/system")]
    assert typed("/set top_k 4\n")[0] == found[:1], "pasted with the end of its line"


def test_ctrl_c_drops_what_was_begun() -> None:
    assert messages('"""one', KeyboardInterrupt, "two\\", KeyboardInterrupt, "three") == ["three"]


def test_an_open_quote_at_the_end_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert messages("one", '"""two') == ["one"]
    assert "was not closed, so it was not sent" in capsys.readouterr().err


def test_lines_that_arrive_together_were_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that does not mark a paste. A command stays apart."""
    waiting = ["one", "  two", "/clear", "three"]
    monkeypatch.setattr("builtins.input", lambda prompt: waiting.pop(0))
    monkeypatch.setattr("select.select", lambda *_: ([1] if len(waiting) == 3 else [], [], []))
    assert read_pasted(FIRST) == "one\n  two"
    monkeypatch.setattr("select.select", lambda *_: ([1], [], []))
    assert read_pasted(FIRST) == "/clear"
