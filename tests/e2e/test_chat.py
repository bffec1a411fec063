"""`octavo chat` on a terminal."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.e2e.cli import Terminal, octavo

GREEDY = ["--temperature", "0", "--ignore-eos"]
DONE = r"peak memory \d+ MB"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_conversation(tiny: Path, home: Path):
    with Terminal(["chat", str(tiny), *GREEDY, "--max-tokens", "10"]) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("hello there my friend\n")
        first = terminal.wait_for(DONE)
        assert "stopped at max_tokens, 10" in first and "cached" not in first
        terminal.type("and now\n")
        second = terminal.wait_for(DONE)
        match = re.search(r"prefill (\d+) tokens, (\d+) cached", second)
        assert match and int(match[2]) >= 16, "the first turn is in the cache"
        terminal.type("/help\n")
        terminal.wait_for("/system")
        terminal.type("/set max_tokens 3\n")
        terminal.wait_for("max_tokens 3")
        terminal.type("go on\n")
        assert "decode 3 tokens" in terminal.wait_for(DONE)
        terminal.type("/stats\n")
        terminal.wait_for(r"% from the cache")
        terminal.type("/clear\n")
        terminal.wait_for("forgotten")
        terminal.wait_for(r">>> $")  # before it, the key would be lost between two reads
        terminal.type("\x04")
        assert terminal.leave() == 0
    assert "hello there my friend" in (home / "chat_history").read_text()
    assert (home / "chat_history").stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(endless: Path):
    with Terminal(["chat", str(endless), *GREEDY]) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("hello\n")
        terminal.wait_for(r"hello\r\n.{20}")
        terminal.type("\x03")
        assert "(stopped)" in terminal.wait_for(DONE)
        terminal.wait_for(">>> ")
        time.sleep(0.3)  # a signal between showing the prompt and waiting for a key would be seen only after that key
        terminal.type("\x03")
        terminal.wait_for(">>> ")
        terminal.type("/set max_tokens 5\n")
        terminal.wait_for(">>> ")
        terminal.type("more\n")
        assert "decode 5 tokens" in terminal.wait_for(DONE)
        terminal.type("/exit\n")
        assert terminal.leave() == 0


def test_a_full_context_is_said_and_nothing_is_cut_off(tiny: Path):
    long = "q" * 520
    talk = f"hello\n{long}\n/stats\n/clear\n/system be brief\nhello\n/nonsense\n/set top_p 7\n/set top_p x\n"
    done = octavo("chat", tiny, *GREEDY, "--max-tokens", "5", stdin=talk)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    (refusal,) = [line for line in done.stderr.splitlines() if "max_model_len" in line]
    assert refusal.startswith("octavo: the prompt of") and "/clear" in refusal
    assert done.stderr.count("decode 5 tokens") == 2, "the conversation goes on after the refusal"
    for expected in ("no command /nonsense", "top_p must be", "top_p must be a number", "system: be brief"):
        assert expected in done.stderr


def test_an_answer_that_fills_the_context_says_so(tiny: Path):
    done = octavo("chat", tiny, *GREEDY, "--max-model-len", "64", stdin="hello\n")
    assert "the context of 64 tokens is full" in done.stderr


def saved(path: Path) -> list[str]:
    """The contents of the user's messages in a saved chat."""
    return [message["content"] for message in json.loads(path.read_text())["messages"] if message["role"] == "user"]


def test_a_pasted_text_is_one_message(tiny: Path, tmp_path: Path):
    """The terminal marks what is pasted, because readline asks for it."""
    code = "def f(x):\n    return x\n\nWhat is this?"
    with Terminal(["chat", str(tiny), *GREEDY, "--max-tokens", "3"], TERM="xterm") as terminal:
        terminal.wait_for(r"\x1b\[\?2004h")
        terminal.type(f"\x1b[200~{code}\x1b[201~")
        time.sleep(0.3)
        terminal.type("\r")
        terminal.wait_for(DONE)
        terminal.wait_for(">>> ")
        terminal.type(f"/save {tmp_path / 'chat.json'}\r")
        terminal.wait_for("saved in")
        terminal.type("/exit\r")
        assert terminal.leave() == 0
    assert saved(tmp_path / "chat.json") == [code]


def test_a_paste_that_is_not_marked_and_typed_continuations(tiny: Path, tmp_path: Path):
    with Terminal(["chat", str(tiny), *GREEDY, "--max-tokens", "3"]) as terminal:
        for keys in ("one\n  two\n", '"""\n', "a\\\n"):
            terminal.wait_for(r">>> $")
            terminal.type(keys)
            if keys == '"""\n':
                terminal.wait_for(r"\.\.\. $")
                terminal.type("three\n")
                terminal.wait_for(r"\.\.\. $")
                terminal.type('"""\n')
            elif keys == "a\\\n":
                terminal.wait_for(r"\.\.\. $")
                terminal.type("b\n")
            terminal.wait_for(DONE)
        terminal.wait_for(r">>> $")
        terminal.type(f"/save {tmp_path / 'chat.json'}\n")
        terminal.wait_for("saved in")
        terminal.type("/exit\n")
        assert terminal.leave() == 0
    assert saved(tmp_path / "chat.json") == ["one\n  two", "three", "a\nb"]


def test_save_load_and_regenerate(tiny: Path, tmp_path: Path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    warm = ["--temperature", "2", "--ignore-eos", "--max-tokens", "8", "--system", "be brief"]
    done = octavo("chat", tiny, *warm, stdin=f"hello\n/save {first}\n/regenerate\n/save {second}\n")
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(path.read_text())["messages"] for path in (first, second))
    assert [m["role"] for m in before] == [m["role"] for m in after] == ["system", "user", "assistant"]
    assert before[:2] == after[:2] and before[2] != after[2], "the last message is answered again, differently"
    assert after[2]["content"] in done.stdout

    third = tmp_path / "third.json"
    talk = f"/regenerate\n/load {first}\n/regenerate\nand now\n/save {third}\n/load nowhere.json\n/save\n"
    done = octavo("chat", tiny, *GREEDY, "--max-tokens", "4", stdin=talk)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    for expected in (
        "there is no message to answer yet",
        "2 messages loaded",
        "temperature 2.0",
        "cannot read nowhere.json",
        "name a file: /save",
    ):
        assert expected in done.stderr
    body = json.loads(third.read_text())
    assert body["temperature"] == 2.0 and body["max_tokens"] == 8
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user", "assistant"]


def test_a_narrow_terminal_gets_whole_figures(tiny: Path):
    with Terminal(["chat", str(tiny), *GREEDY, "--max-tokens", "3"], COLUMNS="40") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("/help\n")
        helped = terminal.wait_for(r">>> ")
        terminal.type("hi\n")
        figures = terminal.wait_for(DONE)
    for line in [*helped.splitlines()[1:-1], *figures.splitlines()[2:]]:
        assert len(line) < 40, line
