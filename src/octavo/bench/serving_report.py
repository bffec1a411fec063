"""The report of `octavo bench serving`: one self-contained HTML file with charts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from octavo.bench.charts import Axis, Points, RequestLane, dots, lanes, lines, logarithmic, upto
from octavo.bench.serving import Outcome, Record
from octavo.bench.serving_figures import QUANTILES, in_flight, itls, per_second, tpot, ttft

MOST_LANES = 200
CURVE = 200  # points of a distribution's curve
LEAST_MS = 0.1  # chunks closer than this arrived together
NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2el_ms": "end to end"}
STYLE = """
:root { color-scheme: light dark; --paper: #fffefb; --ink: #211e1a; --muted: #655e54; --line: #e4ded2;
  --s0: #a5391f; --s1: #2f6db3; --s2: #3c8a4f; }
@media (prefers-color-scheme: dark) { :root { --paper: #161513; --ink: #ebe6dd; --muted: #a89f93; --line: #35312d;
  --s0: #f0906f; --s1: #6fa8e8; --s2: #7cc68d; } }
body { max-width: 1180px; margin: 40px auto; padding: 0 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1, h2, .tiles b { font-family: "Iowan Old Style", Palatino, Georgia, "Liberation Serif", serif; }
h1 { font-size: 30px; margin: 0; } h2 { font-size: 18px; margin: 0 0 8px; } p { margin: 4px 0; color: var(--muted); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px 44px; margin: 28px 0; color: var(--muted); }
.tiles b { display: block; font-size: 32px; font-weight: 400; line-height: 1.2; color: var(--ink); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 36px 40px;
  margin-top: 40px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 28px 5px 0; border-bottom: 1px solid var(--line); text-align: right; font-weight: 400; }
th:first-child { text-align: left; } thead th { color: var(--muted); }
svg { width: 100%; font-size: 12px; } svg text { fill: var(--muted); }
.grid { stroke: var(--line); } .axis { stroke: var(--muted); } .line { fill: none; stroke-width: 2; }
.line { stroke-linejoin: round; }
.dot { fill: var(--s0); } .s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.waited { stroke: var(--muted); opacity: .55; } .answered { stroke: var(--s1); stroke-width: 4; }
.failed { stroke: var(--s0); stroke-width: 4; stroke-dasharray: 3 2; }
pre { overflow-x: auto; color: var(--muted); font-size: 12.5px; }
"""


def html(title: str, plan: dict[str, Any], figures: dict[str, Any], outcome: Outcome) -> str:
    """Returns the page. plan: from `serving.to_json`. figures: from `serving_figures.figures`."""
    whole = [record for record in outcome.records if record.error is None]
    charts = [
        ("Distribution of latencies", _distributions(whole)),
        ("Tokens and requests over the run", _throughput(whole, outcome)),
        ("Time to first token over the run", _first_tokens(whole, outcome)),
        (f"Requests{', the first ' + str(MOST_LANES) if len(outcome.records) > MOST_LANES else ''}", _lanes(outcome)),
    ]
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_about(plan))}</p>", _tiles(figures), _table(figures)]
    body += [f"<p>{escape(line)}</p>" for line in notes(figures)]
    body += ['<div class="charts">', *(f"<section><h2>{escape(name)}</h2>{chart}</section>" for name, chart in charts)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return "\n".join([head, *body, "</div></html>", ""])


def _about(plan: dict[str, Any]) -> str:
    load = plan["load"]
    arrival = (
        f"{load['rate']:g} requests/s (Poisson)" if load["rate"] else f"{load['concurrency']} clients in a closed loop"
    )
    facts = [f"{plan['model']} at {plan['url']}", arrival, f"prompts of {load['prompt_words']} words"]
    facts.append(f"answers of {load['output_tokens']} tokens at most")
    if load["prefix_words"]:
        facts.append(f"{load['prefix_share']:.0%} with a common prefix of {load['prefix_words']} words")
    if load["turns"] > 1:
        facts.append(f"{load['turns']} turns per conversation")
    return ", ".join(facts) + "."


def notes(figures: dict[str, Any]) -> list[str]:
    """Returns warnings about the figures: failures, missing token counts, a busy client."""
    found = [f"{count} failed: {kind}" for kind, count in figures["errors"].items()]
    if figures["tokens_counted_by"] == "chunks":
        found.append("The server does not count tokens. These are chunks; one may hold several tokens.")
    client = figures["client"]
    if client["cpu_share"] > 0.5 or (client["loop_lag_ms"] or {}).get("p99", 0) > 20:
        found.append("The client was busy: part of these latencies is the client's own.")
    return found


def _tiles(figures: dict[str, Any]) -> str:
    tiles = {"tokens/s": figures["output_throughput"], "requests/s": figures["request_throughput"]}
    tiles |= {"completed": f"{figures['completed']} of {figures['requests']}", "seconds": figures["duration_s"]}
    if goodput := figures["goodput"]:
        tiles["good requests/s"] = goodput["request_throughput"]
        tiles["within the limits"] = f"{goodput['share']:.0%}"
    cells = (f"<div><b>{escape(str(value))}</b>{escape(name)}</div>" for name, value in tiles.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def _table(figures: dict[str, Any]) -> str:
    columns = ("mean", *QUANTILES)
    rows = [
        f"<tr><th scope=row>{name}, ms{''.join(f'<td>{_ms(figures[key][column])}' for column in columns)}"
        for key, name in NAMES.items()
        if figures[key]
    ]
    head = "".join(f"<th scope=col>{column}" for column in columns)
    return f"<table><thead><tr><th>{head}</thead><tbody>{''.join(rows)}</table>"


def _ms(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _distribution(values: Sequence[float]) -> Points:
    """Returns at most CURVE + 1 points (value, percentage of values up to it)."""
    ordered = sorted(values)
    picks = sorted({round(index * (len(ordered) - 1) / CURVE) for index in range(CURVE + 1)}) if ordered else []
    return [(ordered[pick], 100 * (pick + 1) / len(ordered)) for pick in picks]


def _distributions(whole: Sequence[Record]) -> str:
    values = {
        "TTFT": [ttft(record) for record in whole],
        "TPOT": [value for record in whole if (value := tpot(record)) is not None],
        "ITL": [value for record in whole for value in itls(record)],
    }
    x = logarithmic("milliseconds", [value for each in values.values() for value in each], LEAST_MS)
    series = {name: _distribution(each) for name, each in values.items() if each}
    return lines(series, x, Axis("% of values below", 0, 100), "Cumulative distributions of TTFT, TPOT and ITL")


def _throughput(whole: Sequence[Record], outcome: Outcome) -> str:
    tokens = per_second(whole, outcome.duration)
    steps = in_flight(outcome.records)
    flights = [point for (a, n), (b, _) in pairwise(steps) for point in ((a, n), (b, n))]
    highest = max((count for _, count in flights), default=1) or 1
    most = max((value for _, value in tokens), default=1.0) or 1.0
    scaled = [(moment, count * most / highest) for moment, count in flights]
    series: dict[str, Points] = {"tokens/s": tokens, f"requests in flight, at most {highest}": scaled}
    x = Axis("seconds", 0, outcome.duration)
    return lines(series, x, upto("tokens/s", [most]), "Tokens per second and requests in flight over time")


def _first_tokens(whole: Sequence[Record], outcome: Outcome) -> str:
    points = [(record.due, ttft(record)) for record in whole]
    y = upto("TTFT, ms", [value for _, value in points])
    x = Axis("seconds, when the request was due", 0, outcome.duration)
    return dots(points, x, y, "Time to first token of each request")


def _lanes(outcome: Outcome) -> str:
    rows = [
        RequestLane(
            record.due, record.chunks[0] if record.chunks else record.ended, record.ended, record.error is not None
        )
        for record in outcome.records[:MOST_LANES]
    ]
    about = "Each request as a line: thin while it waits for its first token, thick while it is answered"
    return lanes(rows, Axis("seconds", 0, outcome.duration), about)
