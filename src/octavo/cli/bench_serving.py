"""`octavo bench serving`: puts load on any OpenAI-compatible server and measures latencies."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.bench.serving_load import Load, check_load
from octavo.cli.options import Row, Table, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.bar import Bar
    from octavo.bench.serving import LoadTest, Outcome, Record, RecordListener

LOAD = Table(
    "Load",
    (
        Row("requests", int, "Number of requests to send."),
        Row(
            "rate",
            float | None,
            "Requests per second, sent at random times whether or not earlier ones are answered.",
        ),
        Row(
            "concurrency",
            int,
            "Without --rate: number of clients; each sends its next request after its answer.",
        ),
        Row("prompt_words", int, "Mean length of a prompt in words."),
        Row("output_tokens", int, "Mean length of an answer in tokens (max_tokens)."),
        Row("spread", float, "Standard deviation of both lengths, as a fraction of their means; 0 makes all equal."),
        Row("prefix_words", int, "Length of a common prefix in words, sent as a system message."),
        Row("prefix_share", float, "Share of the conversations that have the prefix, from 0 to 1."),
        Row("prefixes", int, "Number of different prefixes."),
        Row("turns", int, "Turns per conversation; each turn sends the earlier ones again."),
        Row("think", float, "Mean seconds from an answer to the next turn."),
        Row("seed", int, "Random seed; the same seed sends the same requests at the same times."),
    ),
    {field.name: field.default for field in dataclasses.fields(Load)},
)
UrlOption = Annotated[str, typer.Option("--url", help="Address of the server, with or without /v1.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model to ask; by default the server's first one.")]
KeyOption = Annotated[str | None, typer.Option("--api-key", help="API key; by default the value of OPENAI_API_KEY.")]
EndpointOption = Annotated[str, typer.Option("--endpoint", help="Which route to use: chat or completions.")]
GoodputOption = Annotated[
    list[str],
    typer.Option(
        "--goodput",
        metavar="NAME:MS",
        help="Count the requests that stay within this limit. NAME is ttft, tpot, itl or e2el; may be repeated.",
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Longest time for one request, in seconds.")]
DurationOption = Annotated[float | None, typer.Option("--duration", help="Start no request after this many seconds.")]
WarmupOption = Annotated[int, typer.Option("--warmup", help="Requests to send before the measured ones.")]
EosOption = Annotated[bool, typer.Option("--ignore-eos", help="Ask for answers of full length; not every server can.")]
ExtraOption = Annotated[str, typer.Option("--extra-body", metavar="JSON", help="Further fields for every request.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="Sampling temperature; 0 is greedy.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SaveOption = Annotated[Path | None, typer.Option("--save", help="Write figures and all requests to this JSON file.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Write figures and charts to this HTML file.")]


@takes(load=LOAD)
def serving(
    url: UrlOption = "http://127.0.0.1:8000",
    model: ModelOption = None,
    api_key: KeyOption = None,
    endpoint: EndpointOption = "chat",
    goodput: GoodputOption = [],  # noqa: B006  # typer makes a new list of it
    timeout: TimeoutOption = 120.0,
    duration: DurationOption = None,
    warmup: WarmupOption = 1,
    temperature: TemperatureOption = 0.0,
    ignore_eos: EosOption = False,
    extra_body: ExtraOption = "{}",
    as_json: JsonOption = False,
    save: SaveOption = None,
    report: ReportOption = None,
    *,
    load: dict[str, Any],
) -> None:
    """Put load on an OpenAI-compatible server, and measure throughput, TTFT, TPOT, ITL, goodput and errors."""
    from octavo.bench.serving import LoadTest, choose_model, measure, to_json
    from octavo.bench.serving_client import target
    from octavo.bench.serving_figures import figures, parse_slo

    slo, wanted = parse_slo(goodput), check_load(Load(**load))
    server = target(url, api_key or os.environ.get("OPENAI_API_KEY"))
    extra = fields(extra_body) | ({"ignore_eos": True} if ignore_eos else {})
    test = LoadTest(
        server, model or choose_model(server), wanted, is_chat(endpoint), temperature, timeout, duration, warmup, extra
    )
    with progress(wanted.requests) as watch:
        outcome = measure(test, watch)
    found = {"plan": to_json(test), **figures(outcome, slo)}
    typer.echo(json.dumps(found)) if as_json else show(found)
    keep(save, report, test, found, outcome)


def is_chat(endpoint: str) -> bool:
    if endpoint not in ("chat", "completions"):
        raise ConfigError(f"endpoint must be chat or completions; got {endpoint!r}")
    return endpoint == "chat"


def fields(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"extra_body must be a JSON object; got {text!r}")
    return value


@contextmanager
def progress(total: int) -> Iterator[RecordListener]:
    """Shows a bar on a terminal."""
    from octavo.bar import bar

    with bar() as drawn:
        yield watcher(drawn, total)


def watcher(drawn: Bar, total: int) -> Callable[[Record, bool], None]:
    counts = {"running": 0, "failed": 0, "chunks": 0}
    done = 0

    def watch(record: Record, ended: bool) -> None:
        nonlocal done
        done += ended and record.number >= 0  # a warm-up's number is negative
        counts["running"] += -1 if ended else 1
        counts["failed"] += record.error is not None
        counts["chunks"] += len(record.chunks) if ended else 0
        drawn.draw("requests", done, total, f"{done} of {total}", *(f"{n} {name}" for name, n in counts.items()))

    return watch


def show(found: dict[str, Any]) -> None:
    from octavo.bench.serving_figures import QUANTILES
    from octavo.bench.serving_report import NAMES, notes
    from octavo.cli.console import show_facts, show_table, show_text

    show_facts(f"{found['plan']['model']}:", headline(found))
    for line in notes(found):
        show_text(line)
    rows = [(name, *(f"{v:,.1f}" for v in found[key].values())) for key, name in NAMES.items() if found[key]]
    show_table(("ms", "mean", *QUANTILES), rows, "<>")


def headline(found: dict[str, Any]) -> list[str]:
    facts = [f"{found['completed']} of {found['requests']} requests in {found['duration_s']:.1f} s"]
    facts.append(f"{found['request_throughput']:.2f} requests/s")
    facts.append(f"{found['output_throughput']:.1f} tokens/s")
    if good := found["goodput"]:
        facts.append(f"goodput {good['request_throughput']:.2f} requests/s ({good['share']:.0%} within the limits)")
    return facts


def keep(save: Path | None, report: Path | None, test: LoadTest, found: dict[str, Any], outcome: Outcome) -> None:
    """Writes the files of --save and --report."""
    from octavo.bench.serving_report import html

    if save is not None:
        records = [dataclasses.asdict(record) for record in outcome.records]
        save.write_text(json.dumps(found | {"records": records}), encoding="utf-8")
    if report is not None:
        report.write_text(html(f"Serving {test.model}", found["plan"], found, outcome), encoding="utf-8")
