"""`octavo bench`: prefill and decode speed on the workload of `octavo compare`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from octavo.cli.options import ENGINE, GivenModel, ModelOption, given_model, takes
from octavo.errors import CapacityError, ConfigError

COLUMNS = {
    "batch": "batch",
    "prompt_tokens": "prompt",
    "gen_tokens": "generated",
    "prefill_tok_s": "prefill tok/s",
    "decode_tok_s": "decode tok/s",
    "control_us": "control plane µs/step",
    "processor_us": "text µs/step",
    "peak_rss": "peak memory",
}


@takes(engine=ENGINE)
def bench(
    model: GivenModel = None,
    model_option: ModelOption = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")] = "1,4,16",
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", help="Tokens in each prompt.")] = 128,
    gen_tokens: Annotated[int, typer.Option("--gen-tokens", help="Tokens to generate for each prompt.")] = 64,
    repeat: Annotated[int, typer.Option("--repeat", help="Number of runs; the best one counts.")] = 2,
    limits: Annotated[
        bool, typer.Option("--limits/--no-limits", help="Compare the speeds with the limits of this machine.")
    ] = True,
    profile: Annotated[bool, typer.Option("--profile", help="Show how much time each operation takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Measure prefill and decode speed, one row per batch size, then one prompt of 512 tokens.

    Prompts are random, decoding is greedy, and the prefix cache is off. Run nothing else meanwhile.
    """
    batches = sizes(batch)
    shape = (batches, prompt_tokens, gen_tokens, repeat)
    rows = measure(given_model(model, model_option), shape, engine, limits, profile)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
    else:
        show(rows, len(batches) + 1)


def sizes(text: str, name: str = "batch") -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{name} must be numbers separated by commas, such as 1,4,16; got {text!r}") from None


def measure(
    model: str,
    shape: tuple[tuple[int, ...], int, int, int],
    engine: dict[str, Any],
    with_limits: bool = True,
    profile: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yields a description of the run, then one row per batch."""
    from dataclasses import replace

    from octavo.bench.engine import describe, load, machine, run
    from octavo.bench.workload import Workload
    from octavo.cli.console import loading_bar, process_age

    workload = Workload(*shape)
    try:
        with loading_bar() as bar:
            parts = load(model, workload, engine, bar)
    except CapacityError as error:
        longest = max(length for _, length in workload.rows()) + workload.gen_tokens
        raise CapacityError(f"{error} (the longest row has {longest} tokens, prompt and answer)") from error
    ready = process_age()
    limits = machine(parts) if with_limits else None
    yield describe(parts, ready, limits)
    yield from run(parts, replace(workload, vocab_size=parts.model.vocab_size), limits, profile)
    parts.close()


def show(rows: Iterator[dict[str, Any]], count: int) -> None:
    """Shows a bar until all `count` rows are measured, then the table. After Ctrl-C it has the rows measured so far."""
    from octavo.bar import bar
    from octavo.cli.console import show_facts, show_table

    head = next(rows)
    facts = [f"{head['backend']} {head['isa'] or ''}".strip(), f"{head['threads']} threads"]
    facts += [f"KV cache {head['kv_cache_dtype']}", f"ready after {head['startup_s']} s"]
    if head["barriers_per_layer"] is not None:
        facts.append(f"{head['barriers_per_layer']} barriers per layer")
    show_facts(f"{head['model']}:", facts)
    columns = dict(COLUMNS)
    if "int8_gops" in head:
        peak, bandwidth = f"{head['int8_gops']:.0f} GOPS of int8", f"{head['bandwidth_gbs']:.1f} GB/s"
        show_facts("limits of this machine:", [peak, f"{bandwidth} of memory"])
        columns = with_limits(columns)
    if head["speculative_config"]:
        columns |= {"speculation": "tokens a draft gave"}
    measured: list[dict[str, Any]] = []
    try:
        with bar() as drawn:
            drawn.draw("measuring", 0, count)
            for row in rows:
                measured.append(row)
                speeds = (f"{readable(f'{phase}_tok_s', row)} {phase}" for phase in ("decode", "prefill"))
                drawn.draw("measuring", len(measured), count, f"batch {row['batch']}: {' and '.join(speeds)} tok/s")
    finally:
        if measured:
            show_table([*columns.values()], [[readable(key, row) for key in columns] for row in measured], ">")
    for row in measured:
        for phase, seconds in row.get("profile", {}).items():
            if seconds:
                show_profile(row, phase, seconds)


def show_profile(row: dict[str, Any], phase: str, seconds: dict[str, float]) -> None:
    """Prints the time of a row's prefill or decoding by operation or kernel, down to shares of 1%."""
    from octavo.cli.console import show_table

    total = sum(seconds.values())
    print(f"\n{phase}, batch {row['batch']}, prompt {row['prompt_tokens']}: {total:.2f} s")
    rows = [(name, f"{took:.3f}", f"{took / total:.0%}") for name, took in seconds.items() if took >= total / 100]
    show_table(("operation", "seconds", "share"), rows, "<>")


def with_limits(columns: dict[str, str]) -> dict[str, str]:
    """Returns the columns with a limit column after each of the two speeds."""
    made: dict[str, str] = {}
    for key, title in columns.items():
        made[key] = title
        if key.endswith("_tok_s"):
            made[key.replace("tok_s", "limit")] = "of its limit"
    return made


def readable(key: str, row: dict[str, Any]) -> str:
    from octavo.cli.console import megabytes

    if key == "speculation":
        facts = row[key]
        share, seconds = facts["acceptance"], facts["draft_seconds"]
        return (
            f"{facts['accepted_length']:.2f} ({share:.0%} of {facts['draft_tokens']} stood, {seconds:.2f} s drafting)"
        )
    if key == "prefill_limit":
        return f"{row['ops_fraction']:.0%} int8"
    if key == "decode_limit":  # small batches are memory-bound, large ones compute-bound
        memory, ops = row["bandwidth_fraction"], row["decode_ops_fraction"]
        return f"{memory:.0%} memory" if memory > ops else f"{ops:.0%} int8"
    if row[key] is None:  # the machine was too busy to measure it
        return "-"
    return megabytes(row[key]) if key == "peak_rss" else str(row[key])
