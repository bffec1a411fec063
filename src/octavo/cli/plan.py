"""`octavo plan`: memory arithmetic, before a model is loaded."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, size, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.config import CacheConfig, EngineConfig
    from octavo.ir import Model
    from octavo.kv.planner import MemoryPlan


@takes(engine=ENGINE)
def plan(
    model: ModelArgument,
    length: Annotated[
        int | None, typer.Option("--length", help="Tokens in a typical sequence; by default the longest.")
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory", parser=size, metavar="SIZE", help="Plan for this much memory instead of what is free."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with sizes in bytes.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Show how much memory a model needs with these settings, and how many sequences fit. Loads no weights."""
    made, config, cache = make(model, engine, length, memory)
    facts = {
        "model": model,
        **dataclasses.asdict(made),
        "fits": made.fits,
        "block_size": cache.block_size,
        "kv_cache_dtype": cache.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "threads": config.threads,
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        show(facts)


def make(
    source: str, engine: dict[str, Any], length: int | None = None, memory: int | None = None
) -> tuple[MemoryPlan, EngineConfig, CacheConfig]:
    """The plan, and the settings with every "auto" resolved. Raises what loading the model would."""
    from octavo.assembly.engine import engine_config
    from octavo.kv import planner
    from octavo.models.registry import build_model, open_checkpoint
    from octavo.weights.sources import resolve

    if length is not None and length < 1:
        raise ConfigError(f"length must be at least 1; got {length}")
    checkpoint = open_checkpoint(resolve(source))
    model = build_model(checkpoint)
    settings = engine_config(**engine)
    config, cache = planner.resolve(settings, model.attention, model.max_context, checkpoint.size, memory)
    parts = sizes(model, config, cache)
    tokens = length or config.max_model_len or model.max_context
    if tokens > (longest := config.max_model_len or model.max_context):
        raise ConfigError(f"length must be at most max_model_len, here {longest}; got {length}")
    return planner.plan(model.attention, cache, parts["weights"], parts["scratch"], tokens, memory), config, cache


def sizes(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    """Bytes of weights and scratch in the chosen backend."""
    if config.backend != "cpu":
        raise ConfigError(f"plan knows the cpu backend only; got backend {config.backend!r}")
    from octavo.backends.cpu.footprint import footprint

    assert config.max_model_len is not None and config.threads is not None  # resolved
    budget = config.max_num_batched_tokens
    return footprint(
        model,
        cache,
        max_tokens=budget if config.enable_chunked_prefill else max(budget, config.max_model_len),
        max_seqs=config.max_num_seqs,
        max_context=config.max_model_len,
        threads=config.threads,
    )


def show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from octavo.cli.console import megabytes

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    blocks = f"{facts['num_blocks']:,} blocks of {facts['block_size']} tokens, {facts['kv_cache_dtype']}"
    rows = [
        ("weights", megabytes(facts["weights"]), "packed"),
        ("KV cache", megabytes(facts["kv_pool"]), blocks),
        ("scratch", megabytes(facts["scratch"]), f"{facts['threads']} threads"),
        ("total", megabytes(facts["total"]), "fits" if facts["fits"] else "does not fit"),
        ("available", megabytes(facts["available"]), ""),
        ("per token", f"{facts['kv_token'] / 1024:.1f} KiB", "keys and values of all layers"),
        ("per sequence", megabytes(facts["kv_sequence"]), f"{facts['length']:,} tokens"),
        ("sequences", str(facts["max_sequences"]), "of that length at once, without shared prefixes"),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
