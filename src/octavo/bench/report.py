"""A comparison as a table, and as a self-contained HTML page that loads nothing from a network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from octavo.bench.limits import from_json
from octavo.bench.roofline import Point, roofline, svg

OURS_COLOUR, OTHER_COLOUR = "#3367d6", "#b0b7c3"
BAR, GAP, LABEL, WIDTH = 18, 6, 130, 420  # pixels


class Cell(NamedTuple):
    """A column of the table: one speed of one row of the workload."""

    title: str
    batch: int
    prompt_tokens: int
    speed: str  # "prefill" or "decode"

    def of(self, rows: list[dict[str, Any]], engine: str) -> float | None:
        """Tokens per second; None if the engine has no such speed."""
        place = (engine, self.batch, self.prompt_tokens)
        found = (r for r in rows if (r["engine"], r["batch"], r["prompt_tokens"]) == place)
        return next((row[f"{self.speed}_tok_s"] for row in found), None)


def cells(result: dict[str, Any]) -> list[Cell]:
    """The table's columns: prefill of the long prompt, then decode of each batch."""
    *batches, (one, length) = (tuple(row) for row in result["workload"]["rows"])
    made = [Cell(f"prefill {length}, B={one}", one, length, "prefill")]
    return made + [Cell(f"decode B={batch}", batch, prompt, "decode") for batch, prompt in batches]


def engines(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["engine"] for row in result["rows"]))


def ready_after(result: dict[str, Any], engine: str) -> float | None:
    found = [e["startup_s"] for e in result["engines"] if e["engine"] == engine and e["startup_s"] is not None]
    return min(found, default=None)


def absent(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (engine, reason) for each engine that is not in the table."""
    yield from ((e["engine"] + variant(e), e["note"]) for e in result["engines"] if e["note"])


def variant(engine: dict[str, Any]) -> str:
    """Formats the settings other than the model, such as " (repack=False)"."""
    settings = ", ".join(f"{key}={value}" for key, value in engine["settings"].items() if key != "model")
    return f" ({settings})" if settings else ""


def ratio(result: dict[str, Any], cell: Cell) -> str:
    """Octavo's speed over the best peer's, such as "2.51 x llama.cpp"; empty if there is no peer."""
    for row in result["ratios"]:
        if (row["batch"], row["prompt_tokens"]) == (cell.batch, cell.prompt_tokens) and row[cell.speed] is not None:
            return f"{row[cell.speed]:.2f} x {row[f'best_{cell.speed}']}"
    return ""


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns (titles, rows of text). The last row holds the ratios, if there are any."""
    columns = cells(result)
    rows = [
        [name, *(number(cell.of(result["rows"], name)) for cell in columns), number(ready_after(result, name)) + " s"]
        for name in engines(result)
    ]
    if result["ratios"]:
        rows.append(["octavo / best peer", *(ratio(result, cell) for cell in columns), ""])
    return ["engine", *(cell.title for cell in columns), "ready after"], rows


# ---------------------------------------------------------------- HTML

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #202124 }
table { border-collapse: collapse } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } tr.ratio td { font-weight: bold } figure { margin: 1rem 0 }
"""


def html(result: dict[str, Any]) -> str:
    """The HTML page of a result of `octavo.bench.compare.run`."""
    workload = result["workload"]
    tried = f"best of {workload['repeat']}, engines in turns, {result['threads']} threads"
    body = [
        f"<h1>{escape(Path(result['model']).name)}</h1>",
        f"<p>Tokens per second; {tried}; {workload['gen_tokens']} tokens per random prompt, greedy.</p>",
        _table(*table(result)),
        *(
            f"<figure><figcaption>{escape(cell.title)}</figcaption>{_bars(result, cell)}</figure>"
            for cell in cells(result)
        ),
        *_roofline(result),
        *_notes(result),
    ]
    head = f'<meta charset="utf-8"><title>Octavo compared</title><style>{STYLE}</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""])


def _table(titles: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, texts: list[str]) -> str:
        kind = ' class="ratio"' if texts[0].startswith("octavo /") else ""
        return f"<tr{kind}>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

    return "\n".join(["<table>", line("th", titles), *(line("td", row) for row in rows), "</table>"])


def _bars(result: dict[str, Any], cell: Cell) -> str:
    """Draws one bar per engine; the fastest has the full width."""
    values = {name: cell.of(result["rows"], name) or 0.0 for name in engines(result)}
    scale = WIDTH / max([*values.values(), 1e-9])
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y = i * (BAR + GAP)
        colour = OURS_COLOUR if name == "octavo" else OTHER_COLOUR
        parts.append(f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + value * scale + 6:.1f}" y="{y + 13}">{number(value)}</text>')
    return svg(parts, LABEL + WIDTH + 70, max(len(values), 1) * (BAR + GAP))


def _roofline(result: dict[str, Any]) -> Iterator[str]:
    if result.get("limits"):
        yield "<h2>Octavo and what the machine allows</h2>"
        yield roofline(from_json(result["limits"]), [Point(**point) for point in result["roofline"]])


def _notes(result: dict[str, Any]) -> Iterator[str]:
    versions = (f"{e['engine']}{variant(e)} {e['version']}" for e in result["engines"] if e["version"])
    yield f"<p>Measured: {escape('; '.join(versions))}.</p>"
    for name, why in absent(result):
        yield f"<p>Not measured: {escape(name)}: {escape(why)}</p>"
