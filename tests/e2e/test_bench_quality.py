"""`octavo bench quality`, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.main import main
from tests.tiny import Tiny, write_tiny_gguf

SMALL = ["--tokens", "300", "--threads", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_gguf(tmp_path_factory.mktemp("quality") / "tiny.gguf", Tiny(type="Q8_0")))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_formats_against_f32(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    wanted = ["--kv-cache-dtype", "f32,bf16,int8", "--json", "--positions", "--plot", str(plot)]
    assert main(["bench", "quality", model, *SMALL, *wanted]) == 0
    exact, bf16, int8 = lines(capsys)
    assert [row["kv_cache_dtype"] for row in (exact, bf16, int8)] == ["f32", "bf16", "int8"]
    assert exact["kld"] == exact["ppl_change"] == 0 and exact["same_top"] == 1
    assert 0 < bf16["kld"] < int8["kld"] < 0.05
    assert exact["kv_token"] == 2 * bf16["kv_token"] > bf16["kv_token"] > int8["kv_token"]
    assert int8["tokens"] == len(int8["positions"]["kld"]) == 299
    assert int8["kld"] == pytest.approx(sum(int8["positions"]["kld"]) / 299, rel=1e-3)
    assert plot.read_text().count('class="line') == 3 + 3  # and in the legend


def test_chunks_do_not_matter(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for size in ("7", "300"):
        wanted = ["--kv-cache-dtype", "int8", "--json", "--max-num-batched-tokens", size]
        assert main(["bench", "quality", model, *SMALL, *wanted]) == 0
        rows += lines(capsys)
    assert rows[0] == rows[1]


def test_against_another_file_of_the_model(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The baseline has the weights before quantisation."""
    original = str(write_tiny_gguf(tmp_path / "original.gguf", Tiny(type="F32")))
    text = tmp_path / "text.txt"
    text.write_text("The same words, again and again. " * 20)
    wanted = ["--kv-cache-dtype", "f32", "--json", "--against", original, "--text", str(text)]
    assert main(["bench", "quality", model, *SMALL, *wanted]) == 0
    [row] = lines(capsys)
    assert row["against"] == original and 0 < row["kld"] < 0.1 and row["ppl_baseline"] != row["ppl"]


def test_for_people(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "quality", model, *SMALL]) == 0
    out = capsys.readouterr().out
    assert "300 tokens against f32" not in out and "299 tokens against f32" in out
    assert "same first choice" in out and "bf16" in out and "int8" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kv-cache-dtype", "bf16,int3"], "kv_cache_dtype must be one or more of bf16, f32, int8"),
        (["--tokens", "100000"], "the model's context is 512 tokens"),
        (["--tokens", "1"], "--tokens"),
        (["--text", "/nowhere.txt"], "cannot read the text /nowhere.txt"),
        (["--against", "/nowhere.gguf"], "/nowhere.gguf"),
        (["--plot", "/nowhere/plot.svg"], "cannot write /nowhere/plot.svg"),
    ],
)
def test_mistakes(model: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "quality", model, *SMALL, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_text_that_is_too_short(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Few words.")
    assert main(["bench", "quality", model, *SMALL, "--text", str(text)]) == 2
    assert "tokens, but tokens is 300: give a longer text, or fewer tokens" in capsys.readouterr().err


def test_another_vocabulary_cannot_be_compared(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = str(write_tiny_gguf(tmp_path / "other.gguf", Tiny(vocab=400)))
    assert main(["bench", "quality", model, *SMALL, "--against", other]) == 2
    assert "only over one vocabulary" in capsys.readouterr().err
