"""`octavo info | models | pull` as functions: their output for people and for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from octavo.cli.info import info, readable
from octavo.cli.models_cmd import models
from octavo.cli.pull import pull
from octavo.errors import ModelFileError
from octavo.weights import open_checkpoint
from octavo.weights.aliases import ALIASES
from octavo.weights.formats import GGUF_TYPES
from octavo.weights.summary import summarise
from tests.unit.weights.tiny import COLUMNS, write_folder, write_tiny

app = typer.Typer()
for command in (info, models, pull):
    app.command()(command)


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_info_json_of_a_gguf(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    summary = json.loads(run("info", str(path), "--json"))
    wanted = {
        "format": "gguf", "architecture": "llama", "layers": 1, "hidden_size": COLUMNS, "heads": 4, "kv_heads": None,
        "head_dim": COLUMNS // 4, "context_length": 64, "vocab_size": 20, "tokenizer": "gpt2", "chat_template": True,
        "size": path.stat().st_size, "path": str(path), "parameters": len(GGUF_TYPES) * 2 * COLUMNS + COLUMNS,
    }  # fmt: skip
    assert {key: summary[key] for key in wanted} == wanted
    assert {entry["type"] for entry in summary["quantization"]} == set(GGUF_TYPES)
    assert summary["quantization"][0] == {"type": "F32", "tensors": 2, "parameters": 3 * COLUMNS, "bytes": 12 * COLUMNS}
    assert "tensors" not in summary


def test_info_without_a_model_shows_the_machine() -> None:
    facts = json.loads(run("info", "--json"))
    assert facts["processor"]["name"] and 0 < facts["processor"]["used"] < facts["processor"]["memory"]
    assert facts["threads"] >= 1 and facts["backend_auto"] in ("cpu", "cuda")
    assert facts["processor"]["name"] in run("info")


def test_info_lists_tensors(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    rows = json.loads(run("info", str(path), "--json", "--tensors"))["tensors"]
    assert {"name": "norm.weight", "shape": [COLUMNS], "type": "F32", "bytes": 4 * COLUMNS} in rows
    assert "norm.weight" in run("info", str(path), "--tensors")


def test_info_for_people(tmp_path: Path) -> None:
    text = run("info", str(write_tiny(tmp_path / "tiny.gguf")))
    for word in ("tiny, naïve 模型", "llama", "chat template  yes", "KV heads       -", "Q4_K", "4.50"):
        assert word in text
    assert "norm.weight" not in text


def test_info_of_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    summary = json.loads(run("info", str(folder), "--json"))
    assert (summary["format"], summary["architecture"], summary["head_dim"]) == ("safetensors", "llama", 4)
    assert (summary["tokenizer"], summary["chat_template"], summary["parameters"]) == (None, False, 144)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": ""}')
    (folder / "config.json").write_text('{"model_type": "gemma3", "text_config": {"num_hidden_layers": 26}}')
    summary = summarise(open_checkpoint(folder))
    assert (summary["tokenizer"], summary["chat_template"], summary["layers"]) == ("tokenizer.json", True, 26)


def test_readable() -> None:
    assert [readable("parameters", n) for n in (1_543_714_304, 134_515_008, 99)] == ["1.54 B", "134.52 M", "99"]
    assert (readable("size", 98_362_432), readable("heads", [4, 2]), readable("context", 32768)) == (
        "98.4 MB",
        "[4, 2]",
        "32,768",
    )


def test_models_lists_every_alias() -> None:
    listed = json.loads(run("models", "--json"))
    assert [m["source"] for m in listed] == list(ALIASES)
    assert all(m["pulled"] is False and m["path"] is None and m["size"] > 90e6 for m in listed)
    text = run("models")
    assert all(f"octavo pull {alias}" in text for alias in ALIASES)


def test_pull_prints_the_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(source: str, progress: object) -> Path:
        assert callable(progress)
        progress(1, 2, "part 1 of 1")
        return Path("/cache") / source

    monkeypatch.setattr("octavo.weights.sources.pull", fake)
    assert run("pull", "smollm2-135m") == "/cache/smollm2-135m\n"


def test_errors_reach_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model 'nowhere"):
        run("info", "nowhere.gguf")


def test_importing_weights_brings_in_no_slow_module() -> None:
    program = """
import sys, octavo.weights.sources, octavo.weights.gguf, octavo.weights.safetensors, octavo.weights.dequantize
print({"rich", "huggingface_hub", "safetensors", "requests", "subprocess", "typer"} & set(sys.modules))
"""
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "set()"
