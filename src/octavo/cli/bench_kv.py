"""`octavo bench kv`: formats of the KV cache, and pools that are too small, in quality and speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from octavo.cli.bench_quality import COLUMNS, SETTINGS, readable
from octavo.cli.options import ModelArgument, takes

TABLES: dict[str, dict[str, str]] = {
    "quality": COLUMNS,
    "speed": {
        "kv_cache_dtype": "KV cache",
        "kv_token": "bytes/token",
        "context": "context",
        "decode_tok_s": "decode tok/s",
        "speedup": "of the first",
    },
    "pressure": {
        "pool_percent": "pool, % of demand",
        "num_kv_blocks": "blocks",
        "tok_s": "tok/s",
        "of_first": "of the first",
        "preemptions": "preemptions",
        "same_output": "same output",
    },
}
ENGINE = SETTINGS._replace(
    rows=tuple(row for row in SETTINGS.rows if row.name not in ("num_kv_blocks", "kv_cache_memory"))
)


@takes(engine=ENGINE)
def kv(
    model: ModelArgument,
    dtypes: Annotated[
        str, typer.Option("--kv-cache-dtype", help="Formats to compare with the first, separated by commas.")
    ] = "bf16,int8",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of text that quality is measured on.")] = 2048,
    context: Annotated[int, typer.Option("--context", help="Tokens of context at which decoding is timed.")] = 4096,
    pool: Annotated[str, typer.Option("--pool", help="Pools to measure, in per cent of the demand.")] = "100,50,20,5",
    sequences: Annotated[int, typer.Option("--sequences", help="Sequences that share the pool.")] = 16,
    repeat: Annotated[int, typer.Option("--repeat", help="Number of runs; the best one counts.")] = 2,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw throughput by size of the pool into this SVG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Compare formats of the KV cache, and measure pools smaller than what is asked of them.

    Quality is that of `octavo bench quality`. Speed is that of one sequence at a long context. Sequences that share a
    pool have random prompts of 256 tokens and answers of 64. Run nothing else meanwhile.
    """
    from octavo.cli.console import writable

    writable(plot)
    rows = []
    for row in measure(model, dtypes, tokens, (context, pool, sequences, repeat), engine):
        rows.append(row)
        if as_json:
            typer.echo(json.dumps(row))
    if not as_json:
        show(rows)
    if plot is not None:
        plot.write_text(drawn([row for row in rows if row["what"] == "pressure"]), encoding="utf-8")


def measure(
    model: str, dtypes: str, tokens: int, rest: tuple[int, str, int, int], engine: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    from octavo.bench.kv import KvBench, load, pressure, speeds
    from octavo.bench.quality import measure as qualities
    from octavo.cli.bench import sizes
    from octavo.cli.console import loading_bar

    context, pool, sequences, repeat = rest
    names = tuple(name.strip() for name in dtypes.split(","))
    bench = KvBench(context, sizes(pool, "pool"), sequences, repeat)
    bench.check()
    for row, _ in qualities(model, names[1:], names[0], None, tokens, engine):
        yield {"what": "quality", **row}
    with loading_bar() as bar:
        parts = load(model, bench, {**engine, "kv_cache_dtype": names[0]}, bar)
    yield from speeds(parts, bench, names)
    yield from pressure(parts, bench)
    parts.close()


def show(rows: list[dict[str, Any]]) -> None:
    from octavo.cli.console import show_table

    for index, (what, columns) in enumerate(TABLES.items()):
        lines = [[shown(key, row[key]) for key in columns] for row in rows if row["what"] == what]
        if lines:
            print(end="\n" if index else "")
            show_table([*columns.values()], lines, ">")


def shown(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return readable(key, value) if key in COLUMNS else f"{value:,}"


def drawn(rows: list[dict[str, Any]]) -> str:
    """An SVG chart of the throughput by size of the pool."""
    from octavo.bench.charts import Axis, lines, standalone, upto

    points = sorted((float(row["pool_percent"]), float(row["tok_s"])) for row in rows)
    x, y = Axis("pool, % of demand", 0, 100), upto("tok/s", [speed for _, speed in points])
    return standalone(lines({"recompute": points}, x, y, "throughput by size of the pool"))
