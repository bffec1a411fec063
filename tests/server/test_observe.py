"""What a server reports: metrics, health, load, the live state, logs, traces."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo import __version__
from octavo.server import logs as server_logs
from octavo.server.api.metrics import Figures
from octavo.server.engine import report as engine_report
from octavo.server.runtime import Runtime
from octavo.server.settings import ModelSource, ServerSettings
from tests.server.harness import Server, serving, until
from tests.unit.control import engine

ASK: dict[str, Any] = {"prompt": "abcabc" * 10, "max_tokens": 8, "ignore_eos": True}
NAMES = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "prompt_tokens_cached",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_accepted_tokens_per_pos",
    "kv_fragmentation_perc",
    "kv_evicted_tokens",
    "device_info",
    "device_memory_bytes",
    "device_memory_used_bytes",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "kv_tier_hits",
    "swap_bytes",
    "kv_load_seconds",
    "kv_load_misses",
    "kv_store_drops",
    "kv_store_evictions",
    "spec_draft_length",
}


def scrape(server: Server) -> dict[str, Any]:
    """Samples by name and by labels other than the model's."""
    status, text = server.get("/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(text))
    assert {"octavo:" + name for name in NAMES} <= {family.name for family in families}
    samples = {}
    for family in families:
        for sample in family.samples:
            labels = [value for key, value in sorted(sample.labels.items()) if key != "model_name"]
            samples[":".join([sample.name.removeprefix("octavo:"), *labels])] = sample.value
    return samples


def test_metrics_count_what_happened(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, folder=logs) as server:
        assert scrape(server)["generation_tokens_total"] == 0
        for _ in range(3):
            answer = server.post("/v1/completions", ASK | {"n": 2})[1]
        seen = scrape(server)
        parts = [f"request_{name}_time_seconds" for name in ("queue", "prefill", "decode")]
        assert all(seen[f"{part}_sum"] > 0 and seen[f"{part}_count"] == 3 for part in parts)
        whole = seen["e2e_request_latency_seconds_sum"]
        assert sum(seen[f"{part}_sum"] for part in parts) == pytest.approx(whole), "the parts of a request's time"
        server.post("/v1/completions", ASK | {"timeout": 0.001, "max_tokens": 400})
        seen = scrape(server)
        prompt = answer["usage"]["prompt_tokens"]
        assert seen["generation_tokens_total"] >= 3 * 2 * 8
        assert seen["prompt_tokens_total"] in (3 * prompt, 4 * prompt)
        assert seen["request_success_total:length"] == 3
        assert seen["request_prompt_tokens_sum"] == prompt * seen["request_prompt_tokens_count"]
        assert seen["prompt_tokens_cached_total"] >= answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert seen["prefix_cache_hits_total"] > 0
        assert seen["time_to_first_token_seconds_count"] >= 3
        assert seen["inter_token_latency_seconds_count"] >= 3 * 2 * 7
        server.wait_idle()
        seen = scrape(server)
        assert (seen["num_requests_running"], seen["num_requests_waiting"], seen["kv_cache_usage_perc"]) == (0, 0, 0)
        server.engine().kill()
        until(lambda: server.status("/health") == 503, 5)
        server.wait_ready()
        again = scrape(server)
        assert again["generation_tokens_total"] >= seen["generation_tokens_total"], "a counter went back"
        assert again["engine_restarts_total"] == 1


class Reported(dict[str, Any]):
    """The reported counters. Reading any other name fails."""

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


def test_every_metric_reads_what_an_engine_reports() -> None:
    """A metric that reads a counter that does not exist would always show 0."""
    runtime = Runtime(ModelSource(("m",), "m"), ServerSettings(models=()))
    runtime.metrics.stats = Reported(engine_report.stats(engine()))
    families = {family.name for family in Figures([runtime]).collect()}
    assert families >= {"octavo:" + name for name in NAMES}


def test_speculation_is_measured(tiny_model: Path, logs: Path) -> None:
    config = json.dumps({"method": "ngram", "num_speculative_tokens": 3})
    with serving(tiny_model, "--speculative-config", config, folder=logs) as server:
        body = ASK | {"prompt": "abcd" * 40, "max_tokens": 200, "temperature": 0}
        for extra in ({}, {"structured_outputs": {"regex": "(ab)+c"}}):
            assert server.post("/v1/completions", body | extra)[0] == 200
        seen = scrape(server)
        assert 0 < seen["spec_decode_num_drafts_total"] <= seen["spec_decode_num_draft_tokens_total"]
        assert seen["spec_draft_seconds_total"] > 0
        assert seen["spec_draft_length_count"] == seen["spec_decode_num_drafts_total"]
        places = [value for name, value in seen.items() if name.startswith("spec_decode_num_accepted_tokens_per_pos")]
        assert sum(places) == seen["spec_decode_num_accepted_tokens_total"]


def test_versions_and_load(tiny: Server) -> None:
    assert tiny.get("/version")[1] == {"version": __version__}
    tiny.wait_idle()
    assert tiny.get("/load")[1]["server_load"] == 0


def test_the_live_state_maps_every_block(tiny: Server) -> None:
    tiny.post("/v1/completions", ASK)
    tiny.wait_idle()
    state = tiny.state()
    runs = state["snapshot"]["blocks"]
    assert sum(length for *_, length in runs) == state["info"]["num_blocks"]
    assert any(owner == -2 for owner, *_ in runs), "the prompt's blocks stay cached"
    assert len(state["throughput"]) == 60 and sum(state["throughput"]) > 0
    assert state["recent_ttft"] and state["recent_itl"]
    assert state["processor_seconds"] > 0 and state["snapshot"]["stats"]["control_seconds"] > 0


def test_json_logs_cannot_be_forged(tiny_model: Path, logs: Path) -> None:
    with serving(tiny_model, "--log-format", "json", folder=logs) as server:
        evil = 'x\n{"level": "forged"}\x1b[31m\x85\u2028'
        server.get("/v1/" + "%0a%1b%5b2J", {"x-request-id": "mine-1"})
        server.post("/v1/completions", ASK | {"model": evil}, {"x-request-id": 'bad id {"'})
        lines = server.log.splitlines()
        entries = [json.loads(line) for line in lines]
        assert not any(entry["level"] == "forged" for entry in entries)
        assert all(character.isprintable() for line in lines for character in line)
        assert any(entry.get("request_id") == "mine-1" for entry in entries)
        paths = [entry["message"] for entry in entries if entry["logger"] == "octavo.access"]
        assert "GET /v1/\n\x1b[2J" in paths, "escaped, not lost"


@pytest.mark.parametrize("format", server_logs.FORMATS)
def test_no_record_makes_two_lines(format: str) -> None:
    formatter = {"json": server_logs.JsonFormatter, "text": server_logs.TextFormatter}[format]()
    record = logging.makeLogRecord({"msg": "a\nb\r\x1b[0m\x9b", "levelname": "INFO", "name": "n", "field": "c\nd"})
    assert formatter.format(record).isprintable()


def test_every_answer_has_an_id(tiny: Server) -> None:
    import httpx

    assert len(httpx.get(f"{tiny.url}/version").headers["x-request-id"]) == 24
    assert httpx.get(f"{tiny.url}/version", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx.get(f"{tiny.url}/nothing", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_traces_are_sent_where_they_are_wanted(tiny_model: Path, logs: Path) -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
        with serving(tiny_model, "--otlp-endpoint", endpoint, folder=logs) as server:
            trace = "4bf92f3577b34da6a3ce929d0e0e4736"
            server.post("/v1/completions", ASK, {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
            assert server.stop() == 0  # the remaining spans are sent at shutdown
        collector.shutdown()
    paths, bodies = {path for path, _ in got}, b"".join(body for _, body in got)
    assert paths == {"/v1/traces"} and bytes.fromhex(trace) in bodies
    assert b"POST /v1/completions" in bodies and b"gen_ai.usage.output_tokens" in bodies
