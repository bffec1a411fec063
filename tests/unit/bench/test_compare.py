"""`octavo compare`: engines run in turns in separate processes; missing or failed engines are left out."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from octavo.bench import compare
from octavo.bench.compare import KNOWN, Comparison, Peer, entries, run, variable
from octavo.bench.workload import Workload
from octavo.cli.main import main
from octavo.errors import ConfigError
from tests.tiny import Tiny, write_tiny_gguf

SHORT = Workload((1, 2), prompt_tokens=4, gen_tokens=3, repeat=2)
PEER = """
import sys, time
print("a banner on standard output")

def load(settings):
    log = open({log!r}, "a")
    def generate(prompts, tokens):
        start, shape = "-".join(map(str, prompts[0][:4])), f"{{len(prompts)}} {{len(prompts[0])}}"
        log.write(f"{name} {{shape}} {{tokens}} {{max(map(max, prompts))}} {{start}}\\n"); log.flush()
        print("chatter")
        time.sleep({seconds} * tokens * settings.get("slow", 1))
        {more}
    return "1.2", generate, {vocab}
"""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that adds an engine with the given behaviour. It returns the common log of all engines."""

    def add(name: str, seconds: float = 0.001, more: str = "pass", vocab: Any = None, **peer: Any) -> Path:
        log, file = tmp_path / "log", tmp_path / f"{name}.py"
        file.write_text(PEER.format(log=str(log), name=name, seconds=seconds, more=more, vocab=vocab))
        monkeypatch.setitem(KNOWN, name, Peer(str(file), f"pip install {name}", **peer))
        return log

    return add


def comparison(*engines: str, workload: Workload = SHORT, **more: Any) -> Comparison:
    return Comparison("m.gguf", engines, workload, 1, **more)


def test_engines_take_turns_on_the_same_prompts(known: Any) -> None:
    known("a")
    log = known("b", vocab=300)
    result = run(comparison("a", "b"))
    seen = [line.split() for line in log.read_text().splitlines()]
    assert {call[5] for call in seen if call[0] == "a"} == {call[5] for call in seen if call[0] == "b"}
    run(comparison("a"))
    again = [line.split() for line in log.read_text().splitlines()][len(seen) :]
    assert not {call[5] for call in again[1:]} & {call[5] for call in seen[2:]}, "a server would remember them"
    calls = seen
    rows = [(batch, length) for batch, length in SHORT.rows() for _ in range(SHORT.repeat)]
    expected = [("a", "4"), ("b", "4")]  # a warm-up
    for i, _ in enumerate(rows):
        order = "ab" if i % 2 == 0 else "ba"  # a different engine is first each time
        expected += [(name, tokens) for name in order for tokens in ("1", "4")]
    assert [(name, tokens) for name, _, _, tokens, *_ in calls] == expected
    shapes = [
        (int(batch), int(length)) for name, batch, length, tokens, *_ in calls[2:] if (name, tokens) == ("a", "1")
    ]
    assert shapes == rows
    assert max(int(call[4]) for call in calls) < 300  # ids that the smallest vocabulary has
    assert {(row["engine"], row["batch"], row["prompt_tokens"]) for row in result["rows"]} == {
        (name, *row) for name in "ab" for row in SHORT.rows()
    }


def test_speeds_are_the_best_of_all_rounds_and_variants(known: Any) -> None:
    known("a", seconds=0.01, variants=({"slow": 3}, {"slow": 1}))
    known("b", seconds=0.03)
    result = run(comparison("a", "b"))
    speed = {(row["engine"], row["batch"]): row for row in result["rows"] if row["prompt_tokens"] == 4}
    # Three more tokens take 0.03 s: 100 tokens per second for one sequence, 200 for two.
    # The slow variant reaches a third of that. A busy machine slows both, so the lower bounds lie just above a third.
    assert 45 < speed["a", 1]["decode_tok_s"] < 110 and 90 < speed["a", 2]["decode_tok_s"] < 220
    assert 170 < speed["a", 1]["prefill_tok_s"] < 420
    assert speed["b", 1]["decode_tok_s"] < 37
    assert [(e["engine"], e["settings"]) for e in result["engines"][:2]] == [
        ("a", {"model": "m.gguf", "slow": 3}),
        ("a", {"model": "m.gguf", "slow": 1}),
    ]
    assert all(e["version"] == "1.2" and e["startup_s"] >= 0 and e["peak_rss"] > 1e6 for e in result["engines"])


def test_ratios_are_of_octavo_to_the_best_of_the_others(known: Any, tmp_path: Path) -> None:
    known("fast", seconds=0.005)
    known("slow", seconds=0.05)
    tiny = str(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=1024)))
    result = run(Comparison(tiny, ("octavo", "slow", "fast"), SHORT, 1))
    assert [e["note"] for e in result["engines"]] == ["", "", ""]
    assert len(result["ratios"]) == 3
    rows = {(row["engine"], row["batch"], row["prompt_tokens"]): row for row in result["rows"]}
    for ratio in result["ratios"]:
        batch, length = ratio["batch"], ratio["prompt_tokens"]
        assert ratio["best_prefill"] == "fast" and ratio["best_decode"] == "fast"
        ours, fast = rows["octavo", batch, length], rows["fast", batch, length]
        assert ratio["prefill"] == round(ours["prefill_tok_s"] / fast["prefill_tok_s"], 2)
        if ours["decode_tok_s"]:  # three tokens of a tiny model: a busy machine may hide them
            assert ratio["decode"] == round(ours["decode_tok_s"] / fast["decode_tok_s"], 2)


def test_a_decode_that_noise_hides_has_no_speed() -> None:
    assert compare.speeds(SHORT, 2, 4, first=0.5, total=0.5) == {"prefill_tok_s": 16.0, "decode_tok_s": None}
    rows = [
        {"engine": name, "batch": 1, "prompt_tokens": 4, "prefill_tok_s": 1.0, "decode_tok_s": speed}
        for name, speed in (("octavo", 6.0), ("a", None), ("b", 2.0))
    ]
    (ratio,) = compare._ratios(rows, SHORT)
    assert (ratio["decode"], ratio["best_decode"]) == (3.0, "b")
    rows[0]["decode_tok_s"] = None
    assert next(compare._ratios(rows, SHORT))["decode"] is None


def test_what_is_not_there_is_named_with_its_remedy(known: Any, tmp_path: Path) -> None:
    known("a")
    known("absent", more="pass")
    (tmp_path / "absent.py").write_text("import no_such_engine")
    result = run(comparison("a", "absent", "vllm", "llama.cpp", pythons={"llama.cpp": str(tmp_path / "nothing")}))
    notes = {e["engine"]: e["note"] for e in result["engines"]}
    assert "not installed" in notes["absent"] and "no_such_engine" in notes["absent"]
    assert notes["absent"].endswith("pip install absent")
    assert "--model-for vllm=PATH" in notes["vllm"]
    assert "No such file" in notes["llama.cpp"]
    assert {row["engine"] for row in result["rows"]} == {"a"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("raise ValueError('no more')", "ValueError: no more"),
        ("len(prompts) == 2 and sys.exit('gone for good')", "status 1: gone for good"),
        ("len(prompts) == 2 and __import__('os')._exit(7)", "status 7"),
    ],
)
def test_an_engine_that_fails_is_left_out_and_the_others_go_on(more: str, said: str, known: Any) -> None:
    known("good")
    known("bad", more=more)
    result = run(comparison("bad", "good"))
    assert said in next(e["note"] for e in result["engines"] if e["engine"] == "bad")
    assert {row["engine"] for row in result["rows"]} == {"good"}


def test_an_engine_that_hangs_is_ended(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known("stuck", seconds=60)
    monkeypatch.setattr(compare, "JOB_SECONDS", 0.2)
    monkeypatch.setattr(compare, "GRACE_SECONDS", 0.1)
    assert "no answer" in run(comparison("stuck"))["engines"][0]["note"]


def test_interrupting_leaves_no_process_behind(known: Any) -> None:
    known("a")
    hosts: list[Any] = []

    def stop(text: str) -> None:
        if text.startswith("batch"):
            raise KeyboardInterrupt

    original = compare.Host.__init__

    def remember(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        hosts.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare.Host, "__init__", remember)
        with pytest.raises(KeyboardInterrupt):
            run(comparison("a"), stop)
    assert [host._process.poll() for host in hosts] == [0]


def test_which_python_runs_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def python(**more: Any) -> str:
        return entries(Comparison("m.gguf", ("llama.cpp",), SHORT, 1, **more))[0].command[0]

    assert variable("llama.cpp") == "OCTAVO_PEER_LLAMA_CPP_PYTHON"
    assert python() == sys.executable
    monkeypatch.setenv("OCTAVO_PEER_LLAMA_CPP_PYTHON", "/venv/bin/python")
    assert python() == "/venv/bin/python"
    assert python(pythons={"llama.cpp": "/other/python"}) == "/other/python"
    with pytest.raises(ConfigError, match=r"gguf\.cpp"):
        entries(comparison("gguf.cpp"))


def test_no_file_of_ours_hides_an_engines_module() -> None:
    """peers/ has a transformers.py and a vllm.py: hosts must not find them when they import the engine."""
    for entry in entries(Comparison("m.gguf", tuple(name for name in KNOWN if name != "octavo"), SHORT, 1)):
        assert "-I" in entry.command


# ---------------------------------------------------------------- servers


class Completions(BaseHTTPRequestHandler):
    stops_early = False

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "some-model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "some-model" and body["temperature"] == 0 and body["ignore_eos"] is True
        assert all(isinstance(token, int) for token in body["prompt"])
        self.reply({"usage": {"completion_tokens": 1 if self.stops_early else body["max_tokens"]}})

    def reply(self, values: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(values).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_a_server_takes_part(path: str, server: str) -> None:
    result = run(comparison(urls={"served": server + path}, workload=Workload((2,), 4, 3, 1)))
    assert result["engines"][0]["note"] == "" and result["engines"][0]["version"] == "some-model"
    assert [row["batch"] for row in result["rows"]] == [2, 1]


def test_a_server_that_stops_early_is_no_measure(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Completions, "stops_early", True)
    result = run(comparison(urls={"served": server}, workload=Workload((1,), 4, 3, 1)))
    assert "ignore_eos" in result["engines"][0]["note"] and not result["rows"]


def test_a_server_that_is_not_there_is_said_to_be() -> None:
    result = run(comparison(urls={"served": "http://127.0.0.1:9"}))
    assert "refused" in result["engines"][0]["note"]


# ---------------------------------------------------------------- the command


def test_the_command(known: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known("a")
    known("gone")
    (tmp_path / "gone.py").write_text("import no_such_engine")
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=1024))
    page, values = tmp_path / "page.html", tmp_path / "values.json"
    shape = ["--batch", "1,2", "--prompt-tokens", "4", "--gen-tokens", "3", "--repeat", "2", "--threads", "1"]
    files = ["--report", str(page), "--output", str(values)]
    assert main(["compare", str(tiny), "--engines", "octavo,a,gone", *shape, *files]) == 2
    out, err = capsys.readouterr()
    assert "decode B=2" in out and "pip install gone" in out and "tiny.gguf" in out
    assert err.splitlines()[-1].startswith("octavo: not measured: gone (not installed"), "it was asked for by name"
    result = json.loads(values.read_text())
    ours = [row for row in result["rows"] if row["engine"] == "octavo"]
    assert all(row["ops_fraction"] > 0 for row in ours) and result["limits"]["threads"] == 1
    assert "octavo / best peer" in page.read_text()


def test_engines_that_nobody_named_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default those that are installed are measured. A server, or an engine with a Python, is named too."""
    tiny = str(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=1024)))
    engines = [{"engine": name, "note": note, "settings": {}} for name, note in (("octavo", ""), ("vllm", "gone"))]
    found: dict[str, Any] = {"rows": [{"engine": "octavo"}], "engines": engines}
    monkeypatch.setattr("octavo.cli.compare.measure", lambda wanted: found)
    assert main(["compare", tiny, "--json"]) == 0
    for named in (["--engines", "octavo,vllm"], ["--python-for", "vllm=python"], ["--model-for", f"vllm={tiny}"]):
        assert main(["compare", tiny, "--json", *named]) == 2
    engines.append({"engine": "mine", "note": "no answer", "settings": {}})
    assert main(["compare", tiny, "--json", "--url", "mine=http://127.0.0.1:9"]) == 2
    found["rows"] = []
    assert main(["compare", tiny, "--json"]) == 2, "Octavo itself was not measured"


@pytest.mark.parametrize(
    "words",
    [
        ["--engines", "octavo,quill"],
        ["--python-for", "llama.cpp"],
        ["--engines", "octavo", "--python-for", "llama.cpp=python"],
        ["--engines", "octavo", "--model-for", "vllm=folder"],
        ["--model", "twice.gguf"],
        ["--url", "=http://127.0.0.1"],
        ["--batch", "0"],
        ["--repeat", "0"],
        ["--report", "/no/such/folder/page.html"],
    ],
)
def test_mistakes_are_named_at_once(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=1024))
    assert main(["compare", str(tiny), *words]) == 2
    assert capsys.readouterr().err.startswith("octavo: ")
