"""`octavo serve --kv-disk-cache`: what one server computed, the next one loads, and both say so."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.server.harness import Server, serving
from tests.server.test_observe import scrape

ASK: dict[str, Any] = {"prompt": "abcabc" * 20, "max_tokens": 8, "temperature": 0}


def ask(server: Server, **fields: Any) -> tuple[str, int]:
    status, answer = server.post("/v1/completions", ASK | fields)
    assert status == 200
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def end(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_a_server_finds_what_the_one_before_it_computed(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--kv-disk-cache", str(tmp_path / "kv"), "--kv-disk-gb", "0.01")
    with serving(tiny_model, *options, folder=tmp_path) as server:
        text, cached = ask(server)
        assert cached == 0
        ask(server, prompt="secret" * 20, cache_salt="mine")
        assert scrape(server)["external_prefix_cache_hits_total"] == 0
        end(server)
    with serving(tiny_model, *options, folder=tmp_path) as server:
        again, cached = ask(server)
        assert again == text and cached >= 32
        assert ask(server, prompt="secret" * 20, cache_salt="mine")[1] == 0, "salted blocks are not on the disk"
        server.wait_idle()
        seen = scrape(server)
        assert seen["external_prefix_cache_hits_total"] == cached
        assert seen["external_prefix_cache_queries_total"] > cached
        assert seen["kv_tier_hits_total:disk"] == cached / 16
        assert seen["swap_bytes_total:in"] > 0 and seen["kv_load_seconds_total"] > 0
        server.get("/octavo/state")
        stats = server.get("/octavo/state")[1]["models"][0]["snapshot"]["stats"]
        assert stats["external_hits"] == cached and stats["tier_hits"] == {"disk": cached / 16}
        end(server)
