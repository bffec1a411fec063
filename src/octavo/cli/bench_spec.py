"""`octavo bench spec`: the speed-up of speculation, by method and kind of text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.bar import terminal_width
from octavo.cli import layout
from octavo.cli.console import writable
from octavo.cli.options import ENGINE, ModelArgument, speculation, takes

if TYPE_CHECKING:
    from octavo.assembly.engine import Assembly

GAP = "  "
SHIPPED = "code_edit,code,summary,chat,json,random"


@takes(engine=ENGINE)
def spec(
    model: ModelArgument,
    method: Annotated[
        list[str], typer.Option("--method", help="Method or JSON config to measure; may be repeated.")
    ] = ["ngram", "suffix", "auto"],  # noqa: B006  # typer reads it, nobody writes it
    workload: Annotated[str, typer.Option("--workload", help="Kinds of text, separated by commas.")] = SHIPPED,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")] = "1",
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Runs of each, in turns; the best one counts.")] = 2,
    tokens: Annotated[int | None, typer.Option("--tokens", min=2, help="Most tokens to generate per prompt.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Temperature; 0 is greedy.")] = 0.0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the speed-ups into this SVG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Compare speculative decoding with plain decoding, on six kinds of text.

    The first line shows how the cost of a step grows with its rows. Each further line shows the measured speed-up, the
    speed-up expected from acceptance and step cost, and whether the output was the same.
    """
    writable(plot)
    rows = []
    for row in measure(model, method, workload, batch, (repeat, tokens, temperature), engine):
        rows.append(row)
        typer.echo(json.dumps(row) if as_json else layout.packed(shown(row), terminal_width(sys.stdout), GAP))
    if plot is not None:
        from octavo.bench.plot import bars

        plot.write_text(bars([row for row in rows if "speedup" in row]), encoding="utf-8")


def measure(
    model: str,
    methods: list[str],
    workload: str,
    batch: str,
    rest: tuple[int, int | None, float],
    engine: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    from octavo.bench.spec import SpeculationBench, cost_curve, run
    from octavo.cli.bench import sizes
    from octavo.spec.settings import parse

    batches = sizes(batch)
    repeat, tokens, temperature = rest
    names = tuple(name.strip() for name in workload.split(","))
    check_workloads(names)
    configs = {label(text): speculation(text) for text in methods}
    for config in configs.values():
        parse(config)  # reports a mistake before the model is loaded
    parts = load(model, max(batches), engine)
    threads = parts.config.backend_options.get("threads")
    yield {"model": parts.model.name, "threads": threads, "rows_cost": cost_curve(parts)}
    yield from run(parts, model, SpeculationBench(configs, names, batches, repeat, temperature, tokens))
    parts.close()


def load(model: str, batch: int, engine: dict[str, Any]) -> Assembly:
    """Loads the model without a prefix cache, so that each run computes its prompts."""
    from octavo.assembly.engine import assemble, engine_config
    from octavo.cli.console import loading_bar

    length = engine.get("max_model_len") or 1536
    settings = {**engine, "speculative_config": None, "enable_prefix_caching": False, "max_num_seqs": batch}
    settings["max_model_len"] = length
    if not (engine.get("num_kv_blocks") or engine.get("kv_cache_memory")):
        settings["num_kv_blocks"] = batch * -(-length // (engine.get("block_size") or 16))
    with loading_bar() as bar:
        return assemble(model, engine_config(**settings), progress=bar)


def check_workloads(names: tuple[str, ...]) -> None:
    from octavo.errors import ConfigError

    for name in names:
        if name not in SHIPPED.split(","):
            raise ConfigError(f"workload must be one or more of {SHIPPED}; got {name!r}")


def label(text: str) -> str:
    """Returns the method and its other settings, which distinguish two configs of one method."""
    config = speculation(text)
    extra = "".join(
        f" {key}={Path(value).name if isinstance(value, str) else value}"
        for key, value in config.items()
        if key != "method"
    )
    return str(config.get("method", "draft_model")) + extra


def shown(row: dict[str, Any]) -> list[str]:
    """Returns the parts of a row's line. They are padded, so that whole lines stand below each other."""
    if "rows_cost" in row:
        head = f"{row['model']}, {row['threads']} threads; cost of a step by rows, one row = 1:"
        return [head, *(f"{rows}: {cost:.2f}" for rows, cost in row["rows_cost"].items())]
    return [
        f"{row['workload']:<9}",
        f"batch {row['batch']:<2}",
        f"{row['method']:<30}",
        f"{row['tok_s']:>6.1f} tok/s",
        f"{row['speedup']:.2f}x (expected {row['expected']:.2f}x)",
        f"accepted {row['acceptance']:.0%}, {row['accepted_length']:.2f} tokens per step",
        f"step {row['step_cost']:.2f}",
        *([] if row["same_output"] else ["OUTPUT DIFFERS"]),
    ]
