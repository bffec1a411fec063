"""`octavo bench quality`: what a KV cache's number format, or another model file, costs in quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, takes

COLUMNS = {
    "kv_cache_dtype": "KV cache",
    "ppl": "perplexity",
    "ppl_change": "change",
    "kld": "KL divergence",
    "kld_p99": "99% below",
    "same_top": "same first choice",
    "kv_token": "bytes/token",
}
WINDOW = 128  # positions that a point of the plot averages
# `kv_cache_dtype` is a list here. The others are set by the measurement.
OWN = {"kv_cache_dtype", "max_model_len", "max_num_seqs", "enable_prefix_caching", "speculative_config"}
SETTINGS = ENGINE._replace(rows=tuple(row for row in ENGINE.rows if row.name not in OWN))


@takes(engine=SETTINGS)
def quality(
    model: ModelArgument,
    dtypes: Annotated[
        str | None,
        typer.Option("--kv-cache-dtype", help="Number formats to measure, separated by commas; by default all."),
    ] = None,
    against: Annotated[
        str,
        typer.Option("--against", help="The baseline: a number format of the KV cache, or another file of this model."),
    ] = "f32",
    text: Annotated[
        Path | None, typer.Option("--text", help="The text to read; by default one that is shipped.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of the text to read.")] = 2048,
    positions: Annotated[
        bool, typer.Option("--positions", help="With --json: also the figures of each position.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the KL divergence by position into this SVG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Compare the next-token distributions of a text with those of a baseline.

    KL divergence is 0 if both agree at every position; it is in nats. The first choice is the most likely token. A
    baseline that is another model file runs with keys and values in f32, so that --against can name the original of a
    quantised model.
    """
    from octavo.bench.quality import measure
    from octavo.cli.console import loading_bar, writable

    writable(plot)
    names = None if dtypes is None else [name.strip() for name in dtypes.split(",")]
    given = read(text)
    rows, by_position = [], {}
    with loading_bar() as bar:
        for row, reading in measure(model, names, against, given, tokens, engine, bar):
            rows.append(row)
            by_position[row["kv_cache_dtype"]] = reading.kld
            if as_json:
                values = {"kld": reading.kld, "nll": reading.nll, "same_top": reading.same}
                each = {name: [round(float(x), 7) for x in column] for name, column in values.items()}
                typer.echo(json.dumps(row | ({"positions": each} if positions else {})))
    if not as_json:
        show(rows)
    if plot is not None:
        plot.write_text(drawn(by_position), encoding="utf-8")


def read(path: Path | None) -> str | None:
    from octavo.errors import ConfigError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the text {path}: {error}") from None


def show(rows: list[dict[str, Any]]) -> None:
    from octavo.cli.console import show_facts, show_table

    first = rows[0]
    what = f"{first['tokens']:,} tokens against {first['against']}"
    show_facts(f"{first['model']}:", [what, f"perplexity {first['ppl_baseline']:.3f}"])
    show_table([*COLUMNS.values()], [[readable(key, row[key]) for key in COLUMNS] for row in rows], "<>")


def readable(key: str, value: Any) -> str:
    if key == "kv_cache_dtype":
        return str(value)
    if key == "kv_token":
        return f"{value:,}"
    forms = {"ppl": "{:.3f}", "ppl_change": "{:+.2%}", "same_top": "{:.1%}"}
    return forms.get(key, "{:.5f}").format(value)


def drawn(by_position: dict[str, Any]) -> str:
    """An SVG chart: for each number format the KL divergence, averaged over WINDOW positions."""
    import numpy as np

    from octavo.bench.charts import Points, lines, logarithmic, standalone, upto

    series: dict[str, Points] = {}
    for name, kld in by_position.items():
        cuts = range(0, len(kld), WINDOW)
        series[name] = [(float(at + WINDOW / 2), float(np.mean(kld[at : at + WINDOW]))) for at in cuts]
    every = [y for points in series.values() for _, y in points if y > 0]
    longest = max(len(kld) for kld in by_position.values())
    x, y = upto("position", [longest]), logarithmic("KL divergence", every, 1e-7)
    return standalone(lines(series, x, y, "KL divergence by position"))
