"""Engines that die, freeze or fail: each request gets an answer, the server recovers, no process remains."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.server.harness import FULL, LAUNCH, ROOT, Server, serving, until
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf

KILLS = 100 if FULL else 6
ENDLESS = {"prompt": "once upon a time", "max_tokens": 400, "ignore_eos": True, "temperature": 0, "stream": True}


class Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, server: Server, body: dict[str, Any]):
        super().__init__(daemon=True)
        self.url = f"{server.url}/v1/completions"
        self.body = body
        self.text = ""
        self.error: Any = None
        self.status = 0
        self.done = False
        self.started = threading.Event()

    def run(self) -> None:
        with httpx.stream("POST", self.url, json=self.body, timeout=60) as response:
            self.status = response.status_code
            if self.status != 200:
                self.error = json.loads(response.read())["error"]
                self.started.set()
                return
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.take(json.loads(line[6:]))

    def take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]
        else:
            self.text += "".join(choice["text"] for choice in event["choices"])
        self.started.set()


def readers(server: Server, count: int, **more: Any) -> list[Reader]:
    made = [Reader(server, ENDLESS | more) for _ in range(count)]
    for reader in made:
        reader.start()
    for reader in made:
        assert reader.started.wait(30)
    return made


def join(made: list[Reader]) -> None:
    for reader in made:
        reader.join(60)
        assert not reader.is_alive(), "a stream hangs"


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of 30,000 tokens: they still run when a busy machine gets round to disturbing them."""
    return write_tiny_gguf(tmp_path_factory.mktemp("long") / "long.gguf", Tiny(context=32_768))


def test_a_killed_engine(long_model: Path, logs: Path) -> None:
    """Each request in flight gets an explicit error; the next request works; the next engine is started within 2 s."""
    with serving(long_model, folder=logs) as server:
        gone, load = [], []  # seconds without an engine process; seconds from its start until it is ready
        for _ in range(KILLS):
            streams = readers(server, 3, max_tokens=30_000)
            engine = server.engine()
            engine.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: server.status("/health") == 503, 5, 0.005)
            until(lambda engine=engine: server.engines() not in ([], [engine]), 60, 0.005)
            started = time.monotonic()
            join(streams)
            for stream in streams:
                assert stream.done and stream.error and stream.error["code"] == "unavailable", stream.error
            server.wait_ready(30)
            gone.append(started - killed)
            load.append(time.monotonic() - started)
            assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        print(f"killed {KILLS} times: started again after {max(gone):.2f} s at most, ready {max(load):.2f} s later")
        # After a completed step the back-off starts anew. If each kill doubled it, the sixth would take 3.2 s.
        # The measured load time is added, for busy machines.
        assert max(gone) < 2 + load[0]
        assert server.get("/health")[1]["engines"]["long"]["restarts"] == KILLS
        assert len(psutil.Process(server.process.pid).children(recursive=True)) == 1
        assert "Traceback" not in server.log


def test_a_request_during_the_restart_waits_for_it(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, folder=logs) as server:
        server.engine().kill()
        until(lambda: server.status("/health") == 503, 5, 0.005)
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200


def test_a_frozen_engine(long_model: Path, logs: Path) -> None:
    """SIGSTOP: /health says 503 within 15 s, requests get an error, and another engine takes over."""
    with serving(long_model, "--engine-timeout", "10" if FULL else "2", folder=logs) as server:
        streams = readers(server, 2, max_tokens=30_000)
        frozen = server.engine()
        frozen.suspend()
        stopped = time.monotonic()
        until(lambda: server.get("/health")[1]["engines"]["long"]["restarts"] == 1, 15)
        noticed = time.monotonic() - stopped
        join(streams)
        assert all(stream.error for stream in streams)
        server.wait_ready()
        print(f"frozen: noticed after {noticed:.1f} s, ready again after {time.monotonic() - stopped:.1f} s")
        assert server.engine().pid != frozen.pid
        assert not frozen.is_running()
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200


def test_a_slow_engine_is_not_a_frozen_one(tiny_model: Path, logs: Path) -> None:
    """An engine that uses CPU time may be silent for longer than the timeout."""
    launch = (sys.executable, str(Path(__file__).with_name("poisoned.py")))
    with serving(tiny_model, "--engine-timeout", "1", folder=logs, launch=launch) as server:
        pid = server.engine().pid
        status, _ = server.post("/v1/completions", {"prompt": [5, 6, 252], "max_tokens": 1})
        assert status == 200 and server.engine().pid == pid


def test_a_lost_device_is_named_to_every_request(tiny_model: Path, logs: Path) -> None:
    """An error of a GPU is permanent: the engine process ends at once, every request gets the reason, and a new process
    takes over."""
    launch = (sys.executable, str(Path(__file__).with_name("poisoned.py")))
    with serving(tiny_model, folder=logs, launch=launch) as server:
        pid, streams = server.engine().pid, readers(server, 2)
        status, answer = server.post("/v1/completions", {"prompt": [253, 5, 6], "max_tokens": 1})
        join(streams)
        errors = [answer["error"], *(stream.error for stream in streams)]
        assert status == 503 and all("illegal memory access" in error["message"] for error in errors), errors
        server.wait_ready(30)
        assert server.engine().pid != pid and "the GPU has failed" in server.log
        assert "Traceback" not in server.log
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphans(tiny_model: Path, logs: Path, number: int) -> None:
    with serving(tiny_model, folder=logs) as server:
        engine = server.engine()
        os.kill(server.process.pid, number)
        server.process.wait(20)
        until(lambda: not engine.is_running(), 5)


def test_an_address_that_is_taken_is_one_line(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*LAUNCH, "serve", str(tiny_model), "--port", port], cwd=ROOT, capture_output=True, timeout=60
        )
    output = done.stderr.decode()
    assert done.returncode == 2 and f"cannot listen on 127.0.0.1 port {port}" in output, output
    assert len(output.strip().splitlines()) == 1


def test_a_model_that_cannot_be_served_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    cases = [(bad, (), "version"), (tiny_model, ("--max-model-len", "9999"), "max_model_len")]
    cases += [(tiny_model, ("--kv-cache-dtype", "fp4"), "kv_cache_dtype"), (Path("nothing"), (), "no model")]
    for model, options, named in cases:
        done = subprocess.run(
            [*LAUNCH, "serve", str(model), "--port", "0", *options], cwd=ROOT, capture_output=True, timeout=60
        )
        output = done.stderr.decode()
        assert done.returncode == 2 and named in output and "Traceback" not in output, output
        assert len(output.strip().splitlines()) == 1


def test_a_tokenizer_of_another_model_ends_the_server(tmp_path: Path, tiny_model: Path) -> None:
    """The engine process finds the mistake while the server listens already. The error is still one line."""
    other = write_tiny_hf(tmp_path / "other", Tiny(vocab=330))
    command = [*LAUNCH, "serve", str(tiny_model), "--port", "0", "--tokenizer", str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    *log, output = done.stderr.decode().splitlines()
    assert done.returncode == 2 and "330 tokens but the model has embeddings for 320" in output, output
    assert all(" info " in line for line in log), log


POISON = {
    "an exception": {"prompt": [5, 6, 250]},
    "not a number": {"prompt": [5, 6, 251]},
    "an empty mask": {"prompt": [5, 6], "allowed_token_ids": [7], "structured_outputs": {"regex": "[0-9]+"}},
    "a bad grammar": {"prompt": [5, 6], "structured_outputs": {"grammar": "start: nobody"}},
    "a slow grammar": {"prompt": [5, 6], "structured_outputs": {"regex": "(a{1000}){1000}"}},
}


def test_poison_fails_alone(tiny_model: Path, logs: Path) -> None:
    """An exception, NaN logits or a bad grammar fails that request; the others' bytes are unchanged."""
    launch = (sys.executable, str(Path(__file__).with_name("poisoned.py")))
    with serving(tiny_model, folder=logs, launch=launch) as server:
        (quiet,) = readers(server, 1)
        join([quiet])
        assert quiet.done and not quiet.error
        streams = readers(server, 4)
        for name, body in POISON.items():
            status, answer = server.post("/v1/completions", {"max_tokens": 4, **body})
            assert status in (400, 500) and answer["error"]["message"], (name, status, answer)
            poisoned = Reader(server, {"max_tokens": 4, "stream": True, **body})
            poisoned.run()
            assert poisoned.error, name
        join(streams)
        assert [stream.text for stream in streams] == [quiet.text] * 4
        assert server.get("/health")[1]["engines"]["tiny"]["restarts"] == 0
        server.wait_idle()
