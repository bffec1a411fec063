"""`octavo bench kv`, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo.cli.main import main
from tests.tiny import Tiny, write_tiny_gguf

SMALL = ["--tokens", "60", "--context", "200", "--sequences", "4", "--repeat", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_gguf(tmp_path_factory.mktemp("kv") / "tiny.gguf", Tiny(type="Q8_0")))


def test_quality_speed_and_pressure(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    assert main(["bench", "kv", model, *SMALL, "--pool", "100,65,5", "--json", "--plot", str(plot)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [row["what"] for row in rows]
    assert kinds == ["quality", "speed", "speed", "pressure", "pressure", "pressure"]
    assert (rows[0]["kv_cache_dtype"], rows[0]["against"]) == ("int8", "bf16") and rows[0]["kld"] > 0
    assert [row["kv_cache_dtype"] for row in rows[1:3]] == ["bf16", "int8"]
    assert rows[1]["speedup"] == 1 and rows[2]["decode_tok_s"] > 0
    full, part, little = rows[3:]
    assert (full["num_kv_blocks"], part["num_kv_blocks"], little["num_kv_blocks"]) == (80, 52, 21)
    assert full["preemptions"] == 0 < part["preemptions"]
    assert all(row["same_output"] for row in rows[3:])
    assert "<svg" in plot.read_text()


def test_for_people(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kv", model, *SMALL, "--pool", "50"]) == 0
    out = capsys.readouterr().out
    assert "same first choice" in out and "decode tok/s" in out and "preemptions" in out and "NO" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", "0,50"], "pool must be per cents"),
        (["--pool", "half"], "pool must be numbers"),
        (["--context", "1"], "context must be at least 16"),
        (["--kv-cache-dtype", "bf16,int3"], "kv_cache_dtype must be one or more of"),
    ],
)
def test_mistakes(model: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kv", model, *SMALL, *options]) == 2
    assert message in capsys.readouterr().err
