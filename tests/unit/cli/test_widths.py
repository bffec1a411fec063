"""The commands on terminals of 40 and 80 columns, and in a pipe: no line is cut, and none is longer than it must be."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.bar import cells
from octavo.cli.main import COMMANDS, main
from octavo.weights.aliases import ALIASES
from tests.e2e.cli import environment
from tests.tiny import Tiny, write_tiny_gguf

HELP = """
from octavo.cli.main import COMMANDS, main
for words in ([], *(name.split() for name in COMMANDS)):
    assert main([*words, "-h"]) == 0
    print("====")
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "a-rather-long-name-of-a-home-folder"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "a-folder-with-a-name-that-is-wider-than-the-terminal"
    folder.mkdir()
    return write_tiny_gguf(folder / "tiny.gguf", Tiny(context=1024))


def shown(monkeypatch: pytest.MonkeyPatch, columns: int | None, *arguments: str) -> list[str]:
    """Returns the lines on standard output: a terminal with that many columns, or a pipe."""
    out = io.StringIO() if columns is None else Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(columns or 40))
    assert main(arguments) == 0
    return out.getvalue().splitlines()


def test_help_of_every_command_fits() -> None:
    for columns in (40, 80):
        env = environment(COLUMNS=str(columns))
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, env=env, check=True)
        pages = done.stdout.split("====\n")[:-1]
        assert len(pages) == len(COMMANDS) + 1
        assert all("Usage: octavo" in page and "-h, --help" in page for page in pages)
        assert [line for line in done.stdout.splitlines() if len(line) > columns and " " in line.strip()] == []


@pytest.mark.parametrize("columns", [40, 80])
def test_only_a_path_may_be_longer_than_the_terminal(
    model: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    for words in (["info", str(model), "--tensors"], ["plan", str(model)], ["models"]):
        lines = shown(monkeypatch, columns, *words)
        long = [line for line in lines if cells(line) > columns]
        assert all(line.startswith(("path ", "where ")) for line in long), long
        assert not any("…" in line for line in lines)


@pytest.mark.parametrize("columns", [40, 80, 200, None])
def test_paths_and_aliases_stand_on_one_line(model: Path, monkeypatch: pytest.MonkeyPatch, columns: int | None) -> None:
    assert any(line.endswith(str(model)) for line in shown(monkeypatch, columns, "info", str(model)))
    listed = shown(monkeypatch, columns, "models")
    for alias in ALIASES:
        assert any(alias in line.split() for line in listed)
        assert any(line.endswith(f"octavo pull {alias}") for line in listed)


def test_a_pipe_has_a_row_a_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(shown(monkeypatch, None, "models")) == 1 + len(ALIASES)


def test_bench_shows_a_table_that_fits(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ["--batch", "1,2", "--prompt-tokens", "4", "--gen-tokens", "2", "--repeat", "1", "--threads", "1"]
    for columns in (40, 80):
        lines = shown(monkeypatch, columns, "bench", str(model), *shape, "--no-limits", "--backend", "reference")
        assert all(cells(line) < columns for line in lines)
        assert [line.split()[0] for line in lines if line.startswith(("batch", "decode"))]
