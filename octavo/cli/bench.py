"""`octavo bench`: prefill and decode speed on the workload that peers are measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelOption, takes
from octavo.errors import ConfigError

COLUMNS = {
    "batch": "batch",
    "prompt_tokens": "prompt",
    "gen_tokens": "generated",
    "prefill_tok_s": "prefill tok/s",
    "decode_tok_s": "decode tok/s",
    "control_us": "control plane µs/step",
    "peak_rss": "peak memory",
}


@takes(engine=ENGINE)
def bench(
    model: ModelOption,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, with commas between.")] = "1,4,16",
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", help="Tokens of each prompt.")] = 128,
    gen_tokens: Annotated[int, typer.Option("--gen-tokens", help="Tokens to generate for each.")] = 64,
    repeat: Annotated[int, typer.Option("--repeat", help="Tries; the best counts.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Measure prefill and decode speed: random prompts, greedy, no prefix cache; then one prompt of 512 tokens."""
    rows = measure(model, (sizes(batch), prompt_tokens, gen_tokens, repeat), engine)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
    else:
        show(rows)


def sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"batch must be numbers with commas between, such as 1,4,16; got {text!r}") from None


def measure(
    model: str, shape: tuple[tuple[int, ...], int, int, int], engine: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What is measured, then a row a batch."""
    from dataclasses import replace

    from octavo.bench.engine import describe, load, run
    from octavo.bench.workload import Workload
    from octavo.cli.console import loading_bar, process_age

    workload = Workload(*shape)
    with loading_bar() as bar:
        parts = load(model, workload, engine, bar)
    yield describe(parts, process_age())
    yield from run(parts, replace(workload, vocab_size=parts.model.vocab_size))
    parts.close()


def show(rows: Iterator[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console()
    head = next(rows)
    facts = [f"{head['backend']} {head['isa'] or ''}".strip(), f"{head['threads']} threads"]
    facts += [f"KV cache {head['kv_cache_dtype']}", f"ready after {head['startup_s']} s"]
    if head["barriers_per_layer"] is not None:
        facts.append(f"{head['barriers_per_layer']} barriers a layer")
    console.print(f"{head['model']}: {', '.join(facts)}", markup=False)
    table = Table(*COLUMNS.values())
    for column in table.columns:
        column.justify = "right"
    with Live(table, console=console):
        for row in rows:
            table.add_row(*(readable(key, row[key]) for key in COLUMNS))
    if not console.is_terminal:
        console.print()  # Live leaves the line open


def readable(key: str, value: Any) -> str:
    from octavo.cli.console import megabytes

    return megabytes(value) if key == "peak_rss" else str(value)
