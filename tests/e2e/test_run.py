"""`octavo run` as a user and as a script see it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from octavo.cli.main import COMMANDS
from tests.e2e.cli import COMMAND, Terminal, environment, octavo
from tests.models import model_path

GREEDY = ("--temperature", "0", "--ignore-eos")


def test_text_goes_to_stdout_and_figures_to_stderr(tiny: Path):
    done = octavo("run", tiny, "hello there", *GREEDY, "--max-tokens", "12")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    figures = (
        r"prefill \d+ tokens: [\d.]+ s, \d+ tok/s \| decode 12 tokens: [\d.]+ s, [\d.]+ tok/s \| peak memory \d+ MB"
    )
    assert re.match(figures + r" \| first token [\d.]+ s after the start", line)
    quiet = octavo("run", tiny, "hello there", *GREEDY, "--max-tokens", "12", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "") and done.stdout.endswith("\n")


def test_json_is_one_object_with_the_whole_story(tiny: Path):
    done = octavo("run", tiny, "hello", *GREEDY, "--max-tokens", "8", "--json", "--logprobs", "2", "-q")
    made = json.loads(done.stdout)
    assert made["num_output_tokens"] == len(made["token_ids"]) == len(made["logprobs"]) == 8
    assert made["finish_reason"] == "length" and made["num_prompt_tokens"] > 5
    assert made["prefill_tok_s"] > 0 and made["decode_tok_s"] > 0
    assert made["memory"]["peak_rss"] > made["memory"]["weights"] > 0
    timings = made["timings"]
    assert timings["first_token_after_start_s"] > timings["load_s"] + timings["ttft_s"] > 0
    plain = octavo("run", tiny, "hello", *GREEDY, "--max-tokens", "8", "-q")
    assert plain.stdout.rstrip("\n") == made["text"].rstrip("\n")


def test_the_prompt_may_come_from_anywhere(tiny: Path, tmp_path: Path):
    file = tmp_path / "prompt.txt"
    file.write_text("hello there")
    more = (*GREEDY, "--max-tokens", "8", "-q")
    ways = [
        octavo("run", tiny, "hello there", *more),
        octavo("run", tiny, *more, stdin="hello there"),
        octavo("run", tiny, "-", *more, stdin="hello there"),
        octavo("run", tiny, "--file", file, *more),
    ]
    assert len({way.stdout for way in ways}) == 1 and ways[0].stdout


def test_standard_input_is_appended_to_a_given_prompt(tiny: Path, tmp_path: Path):
    """As in `git diff | octavo run MODEL "Review:"`. What stands there is data, so its own indentation stays."""
    file = tmp_path / "prompt.txt"
    file.write_text("Review:")
    for given in (("Review:",), ("--file", file)):
        done = octavo("run", tiny, *given, *GREEDY, "--max-tokens", "1", "--json", "-q", stdin="  a\n\nb\n")
        assert json.loads(done.stdout)["prompt"] == "Review:\n\n  a\n\nb"


def test_waiting_for_standard_input_is_said(tiny: Path):
    """Under ssh there is a pipe that nobody closes."""
    process = subprocess.Popen(
        [*COMMAND, "run", str(tiny), "hi", *GREEDY, "--max-tokens", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr is not None
    assert b"reading standard input" in process.stderr.readline()
    process.communicate(b"", timeout=30)
    assert process.returncode == 0


def test_the_chat_template_is_used_unless_raw(tiny: Path):
    def prompt_tokens(*more: str) -> int:
        done = octavo("run", tiny, "hello", *GREEDY, "--max-tokens", "1", "--json", "-q", *more)
        tokens: int = json.loads(done.stdout)["num_prompt_tokens"]
        return tokens

    plain = prompt_tokens("--raw")
    assert plain <= 5
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert prompt_tokens("--chat-template", template) == plain
    assert prompt_tokens("--system", "be good") > prompt_tokens() > plain


def test_every_engine_setting_gives_the_same_answer(tiny: Path):
    """The result of a request depends on its prompt alone, not on chunks, caching or threads."""
    settings = [
        (),
        ("--threads", "1", "--isa", "portable"),
        ("--max-num-batched-tokens", "3"),
        ("--block-size", "32", "--no-prefix-caching"),
        ("--kv-cache", "contiguous", "--scheduler", "static"),
        ("--speculative-config", "ngram"),
    ]
    answers = {
        octavo("run", tiny, "hello there", *GREEDY, "--max-tokens", "16", "-q", *more).stdout for more in settings
    }
    assert len(answers) == 1


def test_sampling_options_reach_the_sampler(tiny: Path):
    def ids(*more: str) -> list[int]:
        done = octavo("run", tiny, "hello", "--max-tokens", "8", "--ignore-eos", "--json", "-q", *more)
        made: list[int] = json.loads(done.stdout)["token_ids"]
        return made

    greedy = ids("--temperature", "0")
    assert ids("--top-k", "1", "--temperature", "2") == greedy
    assert ids("--seed", "1", "--temperature", "2") != ids("--seed", "2", "--temperature", "2")
    assert set(ids("--allowed-token-id", "5", "--allowed-token-id", "9")) <= {5, 9}
    assert set(ids("--temperature", "0", "--logit-bias", "42=100")) == {42}
    assert ids("--temperature", "0", "--stop-token-id", str(greedy[2])) == greedy[: greedy.index(greedy[2]) + 1]


def test_ctrl_c_keeps_what_was_written(endless: Path):
    arguments = ["run", str(endless), "hello", *GREEDY, "--raw"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    head = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert head and out.endswith(b"\n") and b"decode" in err and b"Traceback" not in err


def test_a_reader_that_leaves_is_no_error(tiny: Path, endless: Path):
    process = subprocess.Popen(
        [*COMMAND, "run", str(endless), "hello", *GREEDY],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None and process.stderr is not None
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_bar_is_shown_while_loading_on_a_terminal(tiny: Path):
    with Terminal(["run", str(tiny), "hello", *GREEDY, "--max-tokens", "4"]) as terminal:
        terminal.wait_for(r"loading #+ +100%")
        terminal.wait_for("peak memory")
        assert terminal.leave() == 0


def test_help_is_quick_and_imports_no_engine():
    done = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], "--help"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and "bench" in done.stdout
    for module in ("numpy", "rich", "octavo.offline.llm", "tokenizers", "jinja2"):
        assert not re.search(rf"\| +{re.escape(module)}$", done.stderr, re.MULTILINE), module
    assert octavo("--version").stdout.startswith("octavo ")


def test_python_m_octavo_is_the_same_program():
    done = subprocess.run([COMMAND[0], "-m", "octavo", "--version"], capture_output=True, text=True, env=environment())
    assert done.stdout == octavo("--version").stdout and done.returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str):
    done = octavo(*command.split(), "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: octavo {command}")


def test_help_lists_the_options_of_a_table_under_its_title():
    shown = octavo("run", "--help").stdout
    assert re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE) == ["Arguments", "Options", "Sampling", "Engine"]
    assert shown.index("Sampling:") < shown.index("--temperature ") < shown.index("Engine:") < shown.index("--threads ")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_names_every_command(command: str):
    assert f"octavo {command} " in (Path(__file__).parents[2] / "README.md").read_text()


def test_smollm2_says_what_the_golden_data_say():
    path = model_path("smollm2-135m")
    golden = json.loads((Path(__file__).parents[1] / "data/golden/smollm2-135m.json").read_text())["prompts"][0]
    done = octavo("run", path, golden["text"], "--raw", "--temperature", "0", "--max-tokens", "8", "--json", "-q")
    made = json.loads(done.stdout)
    certain = next(i for i, margin in enumerate(golden["greedy_margin"]) if margin < 0.3)
    assert made["num_prompt_tokens"] == len(golden["prompt_ids"])
    assert made["token_ids"][:certain] == golden["greedy_ids"][:certain] and certain >= 2
