"""Clients that disconnect, read slowly or overload: their resources are freed and other clients are not affected."""

from __future__ import annotations

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.models import model_path
from tests.server.harness import FULL, Server, serving, until
from tests.server.streams import Stream, percentile, request_bytes

CUTS = 10_000 if FULL else 400
STEADY = {"prompt": "once upon a time", "max_tokens": 480, "ignore_eos": True, "temperature": 0}


def cut(server: Server, seed: int) -> None:
    """One client that disconnects at a random moment: while connecting, sending, waiting or reading."""
    rng = random.Random(seed)
    body: dict[str, Any] = {"prompt": "x" * rng.randint(1, 200), "max_tokens": rng.randint(1, 200), "ignore_eos": True}
    body |= {"stream": rng.random() < 0.7, "n": rng.choice([1, 1, 2])}
    if rng.random() < 0.1:
        body["structured_outputs"] = {"regex": "[a-z]+"}
    data = request_bytes("/v1/completions", body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        phase = rng.random()
        if phase < 0.1:
            connection.sendall(data[: rng.randint(0, len(data) - 1)])
            return
        connection.sendall(data)
        if phase < 0.4:
            time.sleep(rng.random() * 0.02)
            return
        wanted = rng.randint(1, 5000)
        while wanted > 0 and (got := connection.recv(min(wanted, 4096))):
            wanted -= len(got)


def test_clients_cut_at_random_leave_nothing_behind(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, folder=logs) as server:
        reference = Stream(server, STEADY)
        reference.join(60)
        assert reference.complete
        server.wait_idle()
        process = psutil.Process(server.process.pid)
        descriptors, threads = process.num_fds(), process.num_threads()
        steady = [Stream(server, STEADY) for _ in range(2)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda seed: cut(server, seed), range(CUTS)))
        for stream in steady:
            stream.join(120)
            assert stream.complete and stream.text == reference.text, "another's stream was touched"
        state = server.wait_idle(60)
        until(lambda: process.num_fds() <= descriptors, 20)
        used = sum(length for owner, _, length in state["snapshot"]["blocks"] if owner >= 0)
        print(f"{CUTS} clients cut: {used} blocks leaked, {process.num_fds() - descriptors} descriptors")
        assert used == 0 and process.num_threads() <= threads + 8
        assert sum(length for *_, length in state["snapshot"]["blocks"]) == state["info"]["num_blocks"]
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        assert "Traceback" not in server.log


def test_a_client_that_leaves_frees_its_blocks_at_once(tiny: Server) -> None:
    tiny.wait_idle()
    streams = [Stream(tiny, STEADY | {"n": 2}) for _ in range(4)]
    for stream in streams:
        assert stream.begun.wait(20)
    assert tiny.state()["snapshot"]["sequences"]
    for stream in streams:
        stream.leave.set()
    left = time.monotonic()
    tiny.wait_idle(5)
    print(f"blocks are free {time.monotonic() - left:.2f} s after the clients left")


def test_stop_strings_free_the_engine(tiny: Server) -> None:
    """The engine sees tokens, not text, so the server aborts an answer that a stop string completes."""
    status, answer = tiny.post("/v1/completions", STEADY | {"stop": ["e", "a", "t"], "n": 4})
    assert status == 200 and {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    tiny.wait_idle(5)


def test_readers_that_do_not_read_are_cut_off_and_cost_others_nothing(tiny_model: Path, logs: Path) -> None:
    """Clients that never read, or read slowly, answers larger than the socket buffers."""
    with serving(tiny_model, "--send-timeout", "2", folder=logs) as server:
        greedy = STEADY | {"logprobs": 20, "n": 8}
        alone = Stream(server, STEADY)
        alone.join(60)
        before = psutil.Process(server.process.pid).memory_info().rss
        stuck = [Stream(server, greedy, read=False) for _ in range(6)]
        time.sleep(0.3)
        others = [Stream(server, STEADY) for _ in range(2)]
        for stream in others:
            stream.join(60)
            assert stream.complete and stream.text == alone.text
        state = server.wait_idle(30)
        grown = psutil.Process(server.process.pid).memory_info().rss - before
        until(lambda: server.log.count("does not read its response") == 6, 20)
        assert state["snapshot"]["sequences"] == []
        print(f"6 clients that never read: memory +{grown >> 20} MiB")
        assert grown < 100 << 20
        for stream in stuck:
            stream.leave.set()
        crawling = [Stream(server, STEADY, pause=0.005) for _ in range(2)]
        brisk = Stream(server, STEADY)
        brisk.join(60)
        assert brisk.complete and brisk.text == alone.text
        print(f"p99 gap: {percentile(brisk.gaps, 0.99) * 1e3:.1f} ms beside crawlers")
        for stream in crawling:
            stream.join(60)
            assert stream.complete and stream.text == alone.text


def test_overload(logs: Path) -> None:
    """With ten times more clients than fit, the surplus is refused at once with Retry-After; the others lose no speed.

    The model must be a real one: with a tiny one the test would measure the clients' own work.
    """
    seconds = 20.0 if FULL else 6.0
    options = ("--max-num-seqs", "4", "--max-queued-requests", "8", "--max-model-len", "512")
    with serving(model_path("smollm2-135m"), *options, folder=logs) as server:
        body = {"prompt": "once", "max_tokens": 60, "ignore_eos": True}

        def load(clients: int) -> tuple[float, list[float]]:
            """(tokens per second, seconds of each refusal)."""
            waits: list[float] = []
            begin = time.monotonic()

            def client(_: int) -> int:
                done = 0
                while time.monotonic() < begin + seconds:
                    start = time.monotonic()
                    status, answer = server.post("/v1/completions", body)
                    if status == 200:
                        done += answer["usage"]["completion_tokens"]
                    else:
                        assert status == 429 and answer["error"]["code"] == "overloaded"
                        waits.append(time.monotonic() - start)
                        time.sleep(1)  # the minimum of Retry-After
                return done

            with ThreadPoolExecutor(clients) as pool:
                tokens = sum(pool.map(client, range(clients)))
            return tokens / (time.monotonic() - begin), waits

        peak, refused = load(12)
        assert not refused
        goodput, refused = load(120)
        share, wait = goodput / peak, percentile(refused, 0.99)
        print(f"overload: {len(refused)} refused, p99 {wait * 1e3:.0f} ms; goodput {share:.0%} of peak")
        assert len(refused) > 100 and percentile(refused, 0.5) < 1
        assert share > 0.6  # 95 % holds on an idle machine
        assert server.get("/load")[1]["queued"] == 0
        server.wait_idle()


def test_429_says_when_to_come_back(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, "--max-num-seqs", "1", "--max-queued-requests", "1", folder=logs) as server:
        streams = [Stream(server, STEADY) for _ in range(30)]
        until(lambda: any(stream.status == 429 for stream in streams), 10)
        refused = next(stream for stream in streams if stream.status == 429)
        assert b"retry-after: " in refused.answer.lower()
        for stream in streams:
            stream.leave.set()
