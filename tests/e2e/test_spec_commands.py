"""`octavo bench spec`, `tune layers` and `train heads`, on a tiny model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.assembly.speculation import tuned_layers
from octavo.cli.main import main
from octavo.spec.layer_search import Candidate
from tests.tiny import Tiny, write_tiny_gguf

SMALL = ["--max-model-len", "192", "--threads", "1"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    return str(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(layers=5, type="Q8_0")))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_bench_spec(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    wanted = ["--workload", "chat,json,random", "--batch", "1,3", "--tokens", "20", "--repeat", "1"]
    own = json.dumps({"method": "early_exit", "layers": 4})
    methods = ["--method", "ngram", "--method", own, "--method", "auto"]
    assert main(["bench", "spec", model, *SMALL, *wanted, *methods, "--json", "--plot", str(plot)]) == 0
    head, *rows = lines(capsys)
    assert head["rows_cost"]["1"] == 1 and set(head["rows_cost"]) >= {"2", "4", "6", "16"}
    assert [(row["workload"], row["batch"], row["method"]) for row in rows] == [
        (workload, batch, method)
        for workload in ("chat", "json", "random")
        for batch in (1, 3)
        for method in ("none", "ngram", "early_exit layers=4", "auto")
    ]
    assert all(row["same_output"] for row in rows)
    for row in rows:
        if row["method"] == "none":
            assert row["speedup"] == row["step_cost"] == row["accepted_length"] == 1
        if row["method"].startswith("early_exit"):
            assert 0 < row["acceptance"] < 1 and row["draft_length"] > 1 and row["drafting"] > 0
            assert row["per_position"] == sorted(row["per_position"], reverse=True)
    drawn = plot.read_text()
    assert drawn.startswith("<svg") and drawn.count("<rect") == len(rows)


def test_every_method_says_the_same_on_every_workload_at_every_batch_size(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    self_drafts = [json.dumps({"method": "layer_skip", "layers": [0, 1, 4]}), json.dumps({"model": model})]
    methods = [part for method in ("ngram", "suffix", "tree", "auto", *self_drafts) for part in ("--method", method)]
    every = ["--workload", "code_edit,summary,chat,json,random", "--batch", ",".join(map(str, range(1, 17)))]
    every += ["--tokens", "12", "--repeat", "1", "--json"]
    assert main(["bench", "spec", model, *SMALL, *every, *methods]) == 0
    _, *rows = lines(capsys)
    assert len(rows) == 5 * 16 * 7
    assert [row for row in rows if not row["same_output"]] == []
    assert {row["method"].split()[0] for row in rows if row["draft_length"] > 0} >= {"ngram", "suffix", "layer_skip"}


def test_bench_spec_for_people(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "spec", model, *SMALL, "--workload", "chat", "--tokens", "8", "--method", "tree"]) == 0
    out = capsys.readouterr().out
    assert "cost of a step by rows" in out and "tree" in out and "DIFFERS" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workload", "poems"], "workload must be one or more of code_edit"),
        (["--batch", "x"], "batch must be numbers"),
        (["--method", "magic"], "method must be one of"),
        (["--method", "{"], "neither JSON nor"),
        (["--repeat", "0"], "--repeat"),
        (["--tokens", "0"], "--tokens"),
        (["--temperature", "-1"], "--temperature"),
        (["--plot", "/nowhere/plot.svg"], "cannot write /nowhere/plot.svg"),
        (["--max-model-len", "8"], "max_model_len must be at least 32"),
    ],
)
def test_mistakes(model: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "spec", model, *SMALL, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("tune layers", ["--tokens", "99"], "tokens must be at least 100: on fewer, chance decides; got 99"),
        ("tune layers", ["--max-model-len", "48"], "max_model_len leaves room for 94 tokens, and it takes 100"),
        ("tune layers", ["--max-model-len", "8"], "max_model_len must be at least 32"),
        ("train heads", ["-o", "/nowhere/heads.npz"], "cannot write /nowhere/heads.npz"),
        *[("train heads", ["-o", "{}", name, "0"], name) for name in ("--tokens", "--rank", "--size", "--epochs")],
        ("train heads", ["-o", "{}", "--prompts", "nowhere"], "--prompts"),
        ("train heads", ["-o", "{}", "--prompts", os.devnull], "has no prompt"),
    ],
)
def test_mistakes_in_tuning_and_training(
    model: str, command: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [option.format(tmp_path / "heads.npz") for option in options]
    assert main([*command.split(), model, *SMALL, *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_tune_layers_finds_some_and_auto_takes_them(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "layers", model, *SMALL, "--tokens", "100", "--json"]) == 0
    *tried, best = lines(capsys)
    assert json.loads(Path(best["path"]).read_text())["layers"] == best["layers"]
    assert best["expected_speedup"] == max(row["expected_speedup"] for row in tried)
    assert all(row["layers"][0] == 0 and row["layers"][-1] == 4 for row in tried)
    assert all(0 <= row["acceptance"] <= 1 and 0 < row["cost"] < 1 for row in tried)
    with LLM(model, max_model_len=96, speculative_config={"method": "layer_skip"}) as llm:
        assert tuned_layers(model, llm.parts.model) == tuple(best["layers"])
        llm.generate("abc", SamplingParams(temperature=0, max_tokens=20, ignore_eos=True), use_tqdm=False)
        assert llm.parts.engine.stats.draft_tokens > 0


def test_tune_layers_says_where_it_saves(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Candidate((0, 4), acceptance=0.1, cost=0.9, length=0, speedup=0.8)
    monkeypatch.setattr("octavo.spec.layer_search.search", lambda count, judge: iter([slow]))
    assert main(["tune", "layers", model, *SMALL]) == 0
    best, where = capsys.readouterr().out.splitlines()
    assert best.endswith("slower than plain decoding, so auto will not use it")
    assert where == f"saved in {tmp_path / 'home' / 'tuned' / 'tiny.gguf.layers.json'}"


def test_trained_heads_draft_and_change_nothing(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, prompts = tmp_path / "heads.npz", tmp_path / "prompts.txt"
    prompts.write_text("one two three\n\nthe rain in spain\n")
    small = ["--tokens", "600", "--rank", "16", "--size", "200", "--epochs", "3", "--prompts", str(prompts)]
    assert main(["train", "heads", model, "-o", str(path), *SMALL, *small]) == 0
    assert '"method": "heads"' in capsys.readouterr().out
    params = [SamplingParams(temperature=t, seed=1, max_tokens=40, ignore_eos=True, logprobs=1) for t in (0, 0.8)]
    params.append(SamplingParams(temperature=0.8, seed=2, n=3, max_tokens=30, logprobs=1))
    texts = ["one two three", "the rain", "abc"]
    config = {"heads": str(path)}
    answers = []
    for given in (
        None,
        {"method": "heads", **config},
        {"method": "auto", **config},
        {"method": "tree", "methods": ["heads"], **config},
    ):
        with LLM(model, max_model_len=96, speculative_config=given) as llm:
            outputs = llm.generate(texts, params, use_tqdm=False)
            answers.append([[(one.token_ids, one.logprobs) for one in output.outputs] for output in outputs])
            assert given is None or given["method"] == "auto" or llm.parts.engine.stats.draft_tokens > 60
    assert answers[0] == answers[1] == answers[2] == answers[3]
