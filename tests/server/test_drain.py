"""SIGTERM: not ready at once, active requests complete, then exit 0. A second one ends all requests."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.server.harness import serving, until
from tests.server.streams import Stream

LONG = {"prompt": "once upon a time", "max_tokens": 450, "ignore_eos": True, "temperature": 0}


def test_drain(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, "--max-num-seqs", "2", folder=logs) as server:
        alone = Stream(server, LONG)
        alone.join(60)
        streams = [Stream(server, LONG) for _ in range(6)]  # some run, some wait
        until(lambda: server.get("/load")[1]["server_load"] == 6, 20, 0.005)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: server.status("/ready") == 503, 2, 0.005)
        assert server.status("/health") == 200
        status, answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert status == 503 and "shutting down" in answer["error"]["message"]
        for stream in streams:
            stream.join(60)
            assert stream.complete and stream.error is None and stream.text == alone.text
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log


def test_requests_that_take_too_long_are_told(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, "--shutdown-timeout", "0.2", "--max-num-seqs", "2", folder=logs) as server:
        streams = [Stream(server, LONG | {"n": 2}) for _ in range(30)]
        assert streams[0].begun.wait(20)
        begin = time.monotonic()
        assert server.stop(20) == 0
        print(f"cut off after {time.monotonic() - begin:.1f} s")
        for stream in streams:
            stream.join(10)
        notified = [stream for stream in streams if stream.error and "shutting down" in stream.error["message"]]
        plain = [stream for stream in streams if stream.status == 503]
        assert len(notified) + len(plain) > 20 and len(notified) + len(plain) + sum(s.complete for s in streams) >= 30


def test_a_second_signal_forces(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, "--max-num-seqs", "2", folder=logs) as server:
        streams = [Stream(server, LONG | {"n": 2}) for _ in range(40)]
        assert streams[0].begun.wait(20)
        engine = server.engine()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "shutting down" in server.log, 5, 0.01)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        print(f"forced: gone after {time.monotonic() - begin:.2f} s")
        until(lambda: not engine.is_running(), 5)
        for stream in streams:
            stream.join(10)


def test_an_idle_server_ends_at_once(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, folder=logs) as server:
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 3
