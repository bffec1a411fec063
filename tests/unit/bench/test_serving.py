"""`octavo bench serving` against a local server with scripted answers."""

from __future__ import annotations

import json
import re
import socket
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from octavo.bench import serving
from octavo.bench.charts import Axis
from octavo.bench.serving import LoadTest, Outcome, Record, measure
from octavo.bench.serving_client import target
from octavo.bench.serving_figures import figures, in_flight, parse_slo, per_second, tokens, tpot
from octavo.bench.serving_load import Load, check_load, simulated_chats, warmup
from octavo.cli.main import main
from octavo.errors import ConfigError
from tests.server.fake import Fake, serve


def run(fake: Fake, load: Load, **options: object) -> Outcome:
    with serve(fake):
        return measure(LoadTest(target(fake.url, fake.key), "fake-1", load, **options))  # type: ignore[arg-type]


def done(number: int, due: float, chunks: list[float], count: int | None = None) -> Record:
    return Record(number, number, 0, due, due, chunks[-1], chunks, 10, count)


# The load.


def test_a_seed_is_a_load() -> None:
    load = Load(requests=20, rate=5, spread=0.5, prefix_words=30, turns=3, think=1.0, seed=7)
    assert list(simulated_chats(load)) == list(simulated_chats(load))
    assert list(simulated_chats(load)) != list(simulated_chats(replace(load, seed=8)))


def test_arrivals_are_poisson_at_the_rate_of_requests() -> None:
    for turns in (1, 4):
        starts = [each.start for each in simulated_chats(Load(requests=8000, rate=10, turns=turns))]
        gaps = [after - before for before, after in pairwise(starts)]
        assert statistics.fmean(gaps) == pytest.approx(turns / 10, rel=0.06)
        assert statistics.stdev(gaps) == pytest.approx(statistics.fmean(gaps), rel=0.08)  # as of an exponential


def test_lengths_have_the_mean_and_the_spread_that_were_asked_for() -> None:
    made = list(simulated_chats(Load(requests=3000, prompt_words=80, output_tokens=50, spread=0.6)))
    words = [len(each.turns[0].text.split()) for each in made]
    assert statistics.fmean(words) == pytest.approx(80, rel=0.05)
    assert statistics.stdev(words) == pytest.approx(48, rel=0.1)
    assert statistics.fmean(each.turns[0].max_tokens for each in made) == pytest.approx(50, rel=0.05)
    assert {len(each.turns[0].text.split()) for each in simulated_chats(Load(prompt_words=9))} == {9}


def test_a_share_has_one_of_the_prefixes() -> None:
    made = list(simulated_chats(Load(requests=400, prefix_words=40, prefix_share=0.5, prefixes=3)))
    having = [each.prefix for each in made if each.prefix]
    assert len(having) == pytest.approx(200, abs=40) and len(set(having)) == 3
    assert all(len(prefix.split()) == 40 for prefix in having)
    texts = {each.turns[0].text for each in made}
    assert len(texts) == 400 and warmup(Load(), 0).turns[0].text not in texts


def test_turns_add_up_to_the_requests() -> None:
    assert [len(each.turns) for each in simulated_chats(Load(requests=10, turns=4))] == [4, 4, 2]


@pytest.mark.parametrize(
    "wrong", [{"requests": 0}, {"rate": 0.0}, {"rate": -1.0}, {"prefix_share": 1.5}, {"spread": -0.1}, {"turns": 0}]
)
def test_a_load_that_makes_no_sense_names_the_option(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        check_load(Load(**wrong))  # type: ignore[arg-type]


# The client.


def test_a_closed_loop_keeps_so_many_at_work() -> None:
    fake = Fake(delay=0.004)
    outcome = run(fake, Load(requests=24, concurrency=4, output_tokens=8, prefix_words=5))
    assert len(outcome.records) == 24 and not any(record.error for record in outcome.records)
    # By the client's clock: the server may see the next request before it has released the previous one.
    at_work = [sum(o.sent <= record.sent < o.ended for o in outcome.records) for record in outcome.records]
    assert max(at_work) == 4
    body = fake.bodies[1]  # the first is the warm-up's
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["max_tokens"] == 8 and body["stream_options"] == {"include_usage": True} and body["temperature"] == 0
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "stream", "stream_options"}
    assert all(len(record.chunks) == record.output_tokens == 8 for record in outcome.records)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """A server that takes 0.5 s for each of 40 requests in 0.4 s has nearly all of them at once."""
    fake = Fake(first_delay=0.5)
    outcome = run(fake, Load(requests=40, rate=100, output_tokens=2), warmups=0)
    assert fake.most_open > 25
    assert all(record.sent - record.due < 0.2 for record in outcome.records)


def test_latencies_are_those_of_the_server() -> None:
    outcome = run(Fake(first_delay=0.1, delay=0.02), Load(requests=6, concurrency=2, output_tokens=10))
    found = figures(outcome, {})
    assert 120 <= found["ttft_ms"]["p50"] < 170
    assert 20 <= found["itl_ms"]["p50"] < 30 and found["tpot_ms"]["p50"] == pytest.approx(20, abs=8)
    assert found["output_tokens"] == 60
    assert found["output_throughput"] == pytest.approx(60 / outcome.duration, rel=0.01)


def test_lateness_counts_against_the_answer() -> None:
    """A request due at 1 s and sent at 3 s with its first token at 3.5 s has a TTFT of 2.5 s."""
    record = Record(0, 0, 0, due=1.0, sent=3.0, ended=4.0, chunks=[3.5, 4.0], output_tokens=2)
    assert figures(Outcome([record], 4.0, 0.1, []), {})["ttft_ms"]["p50"] == 2500


def test_turns_have_in_front_of_them_what_was_said() -> None:
    fake = Fake(pieces=["an ", "answer"])
    outcome = run(fake, Load(requests=5, turns=3, concurrency=1, prompt_words=4), warmups=0)
    assert [record.turn for record in outcome.records] == [0, 1, 2, 0, 1]
    said = fake.bodies[2]["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant", "user"]
    assert said[:2] == fake.bodies[1]["messages"][:2] and said[1]["content"] == "an answer"


def test_completions_and_a_key() -> None:
    fake = Fake(key="sesame")
    outcome = run(fake, Load(requests=3, prefix_words=3, prompt_words=2), chat=False, extra={"ignore_eos": True})
    assert not any(record.error for record in outcome.records)
    assert re.fullmatch(r"(\w+ ){2}\w+\n\n\w+ \w+", fake.bodies[1]["prompt"]) and fake.bodies[1]["ignore_eos"]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(429, "http 429"), (500, "http 500"), ("event", "error event"), ("cut", "cut off"), ("silent", "cut off")],
)
def test_trouble_is_counted_by_kind_and_kept_out_of_the_latencies(trouble: int | str, kind: str) -> None:
    fake = Fake(trouble=lambda number: trouble if number in (1, 3) else None)
    found = figures(run(fake, Load(requests=6, concurrency=1, output_tokens=4), warmups=0), {"ttft": 1e6})
    assert found["errors"] == {kind: 2} and found["completed"] == 4 and found["output_tokens"] == 16
    assert found["goodput"]["requests"] == 4 and found["goodput"]["share"] == pytest.approx(2 / 3, rel=1e-3)


def test_a_request_has_a_time_limit() -> None:
    fake = Fake(trouble=lambda number: "hang" if number == 0 else None)
    outcome = run(fake, Load(requests=3, concurrency=1, output_tokens=4), warmups=0, timeout=0.4)
    assert [record.error for record in outcome.records] == ["timeout", None, None]
    assert outcome.records[0].ended - outcome.records[0].sent < 1.0


def test_a_failed_turn_ends_its_conversation() -> None:
    fake = Fake(trouble=lambda number: 500 if number == 1 else None)
    outcome = run(fake, Load(requests=6, turns=3, concurrency=1), warmups=0)
    assert [(record.conversation, record.turn) for record in outcome.records] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (1, 2),
    ]


def test_nothing_starts_after_the_duration() -> None:
    outcome = run(Fake(delay=0.02), Load(requests=1000, concurrency=2, output_tokens=4), duration=0.5)
    assert 2 <= len(outcome.records) < 40 and outcome.duration < 1.0
    outcome = run(Fake(), Load(requests=1000, rate=40), duration=0.5)
    assert 5 <= len(outcome.records) < 45


def test_without_usage_chunks_are_counted() -> None:
    found = figures(run(Fake(usage=False), Load(requests=2, output_tokens=5)), {})
    assert found["tokens_counted_by"] == "chunks" and found["output_tokens"] == 10 and found["prompt_tokens"] is None


def test_a_server_that_is_not_there_is_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ConfigError, match=r"does not answer \(no connection"):
        measure(LoadTest(target(url), "m", Load()))
    with pytest.raises(ConfigError, match="give --model"):
        serving.choose_model(target(url))


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("http://localhost:8000", ("localhost", 8000, "/v1", False)),
        ("localhost:9/v1/", ("localhost", 9, "/v1", False)),
        ("https://example.org/llm", ("example.org", 443, "/llm/v1", True)),
    ],
)
def test_urls(url: str, made: tuple[object, ...]) -> None:
    assert target(url)[:4] == made


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        target(url)


# The figures.


def test_figures_by_hand() -> None:
    records = [
        done(0, 0.0, [0.1, 0.2, 0.4], 4),  # ttft 100, itl 100 and 200, tpot 100
        done(1, 0.5, [1.5, 1.6], 2),  # ttft 1000, itl 100, tpot 100
        Record(2, 2, 0, 0.6, 0.6, 0.7, [], error="http 429"),
    ]
    found = figures(Outcome(records, 2.0, 0.2, [0.001]), {"ttft": 500, "itl": 150})
    assert found["ttft_ms"]["mean"] == 550 and found["ttft_ms"]["max"] == 1000
    assert found["tpot_ms"]["mean"] == 100 and found["itl_ms"]["max"] == 200
    assert found["request_throughput"] == 1.0 and found["output_throughput"] == 3.0
    assert found["goodput"]["requests"] == 0 and figures(Outcome(records, 2.0, 0, []), {"ttft": 500})["goodput"] == {
        "slo_ms": {"ttft": 500},
        "requests": 1,
        "share": pytest.approx(1 / 3, rel=1e-3),
        "request_throughput": 0.5,
    }
    assert in_flight(records) == [(0.0, 1), (0.4, 0), (0.5, 1), (0.6, 2), (0.7, 1), (1.6, 0)]
    assert found["client"]["cpu_share"] == 0.1


def test_tokens_of_a_chunk_are_spread_over_time() -> None:
    records = [done(0, 0.0, [0.5, 1.5], 8)]
    rates = per_second(records, 2.0, slices=2)
    assert rates == [(0.5, 4.0), (1.5, 4.0)] and tokens(records[0]) == 8
    assert tpot(done(0, 0.0, [1.0], 5)) is None  # came in one piece


def test_slos() -> None:
    assert parse_slo(["ttft:500", "tpot:50"]) == {"ttft": 500, "tpot": 50}
    for wrong in ("ttft", "ttft:x", "speed:3", "itl:-1"):
        with pytest.raises(ConfigError, match="goodput"):
            parse_slo([wrong])


def test_ticks_are_round() -> None:
    assert Axis("", 0, 47).ticks() == [0, 10, 20, 30, 40]
    assert Axis("", 3, 600, log=True).ticks() == pytest.approx([5, 10, 20, 50, 100, 200, 500])


# The command.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake(delay=0.002, cached_tokens=3, trouble=lambda number: 429 if number == 5 else None)
    report, save = tmp_path / "report.html", tmp_path / "run.json"
    options = ["--requests", "12", "--rate", "60", "--output-tokens", "6", "--spread", "0.3", "--goodput", "ttft:5000"]
    with serve(fake):
        files = ["--report", str(report), "--save", str(save)]
        assert main(["bench", "serving", "--url", fake.url, "--api-key", "secret-key", *options, *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 12 and found["errors"] == {"http 429": 1} and found["cached_tokens"] == 33
    assert found["plan"]["model"] == "fake-1" and found["plan"]["load"]["rate"] == 60
    kept = json.loads(save.read_text())
    assert len(kept["records"]) == 12 and kept["ttft_ms"] == found["ttft_ms"]
    assert "secret-key" not in save.read_text() + report.read_text()
    charts = re.findall(r"<svg.*?</svg>", report.read_text(), re.DOTALL)
    assert len(charts) == 4 and "1 failed: http 429" in report.read_text()
    lanes = ElementTree.fromstring(charts[3])  # well-formed, all of them
    assert [ElementTree.fromstring(chart).tag for chart in charts] == ["svg"] * 4
    assert sum(node.get("class") == "answered" for node in lanes) == 11
    assert not re.search(r"https?://(?!127\.0\.0\.1)|<script|src=", report.read_text())


def test_the_command_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(Fake(usage=False)) as fake:
        assert main(["bench", "serving", "--url", fake.url, "--requests", "3", "--goodput", "ttft:5000"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 requests" in shown and "100% within the limits" in shown and "TTFT" in shown
    assert "does not count tokens" in shown


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--requests", "0"], "requests"),
        (["--goodput", "x:1"], "goodput"),
        (["--endpoint", "x"], "endpoint"),
        (["--extra-body", "[1]"], "extra_body"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serving", "--model", "m", *options]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_nothing_at_all_makes_a_report(tmp_path: Path) -> None:
    """If every request failed, there is nothing to draw, and the report says so."""
    fake = Fake(trouble=lambda number: 500)
    with serve(fake):
        report = ["--report", str(tmp_path / "r.html")]
        assert main(["bench", "serving", "--url", fake.url, "--requests", "2", "--warmup", "0", *report]) == 0
    assert "0 of 2" in (tmp_path / "r.html").read_text()
