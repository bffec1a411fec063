"""`octavo plan`: memory arithmetic, before a model is loaded."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, size, takes
from octavo.errors import CapacityError, ConfigError

if TYPE_CHECKING:
    from octavo.config import CacheConfig, EngineConfig
    from octavo.ir import Model
    from octavo.kv.planner import MemoryPlan

# What a format of the KV cache costs: docs/memory.md has the figures.
QUALITY = {"f32": "exact", "bf16": "as f32", "int8": "nearly as bf16", "k8v4": "a little below bf16"}


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
    device_memory: Annotated[
        int | None,
        typer.Option(
            "--device-memory",
            parser=size,
            metavar="SIZE",
            help="Plan for a GPU with this much memory, such as 80G. Needs neither a GPU nor torch.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with sizes in bytes.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Show how much memory a model needs with these settings, and how many sequences fit. Loads no weights."""
    made, config, cache = make(model, engine, length, memory, device_memory)
    facts = {
        "model": model,
        **dataclasses.asdict(made),
        "fits": made.fits,
        "block_size": cache.block_size,
        "kv_cache_dtype": cache.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "backend": config.backend,
        **config.backend_options,
        "tiers": tiers(config, made.kv_token),
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        show(facts)


def tiers(config: EngineConfig, kv_token: int) -> dict[str, int]:
    """Tokens that fit below the KV pool, by tier."""
    sizes = {"ram": config.kv_ram_gb, "disk": config.kv_disk_gb if config.kv_disk_cache is not None else None}
    return {tier: int(size * 2**30) // kv_token for tier, size in sizes.items() if size is not None}


def make(
    source: str,
    engine: dict[str, Any],
    length: int | None = None,
    memory: int | None = None,
    device_memory: int | None = None,
) -> tuple[MemoryPlan, EngineConfig, CacheConfig]:
    """Returns the plan, and the settings with every "auto" resolved. Raises the errors of loading the model.

    memory: bytes to plan for; device_memory: those of a GPU, of which the engine takes its share."""
    from octavo.assembly.engine import engine_config
    from octavo.backends.registry import device
    from octavo.kv import planner
    from octavo.models.registry import build_model, open_checkpoint
    from octavo.weights.sources import resolve

    if length is not None and length < 1:
        raise ConfigError(f"length must be at least 1; got {length}")
    config = engine_config(**engine)
    if device_memory is not None:
        memory = of_device(config, memory, device_memory)
    checkpoint = open_checkpoint(resolve(source))
    model = build_model(checkpoint)
    config, cache = resolved(model, config, checkpoint.size, length, memory)
    tokens = length or config.max_model_len or model.max_context
    if tokens > (longest := config.max_model_len or model.max_context):
        raise ConfigError(f"length must be at most max_model_len, here {longest}; got {length}")
    chosen = device(config.backend)
    available = chosen.available_memory(config.backend_options) if memory is None else memory
    footprint = chosen.footprint(model, config, cache)
    made = planner.plan(model.attention, cache, footprint, tokens, available, chosen.kv_dtypes)
    return made, config, cache


def of_device(config: EngineConfig, memory: int | None, device_memory: int) -> int:
    from octavo.backends.registry import device

    if memory is not None:
        raise ConfigError("--memory and --device-memory say the same thing: give one of them")
    if (share := device(config.backend).share) is None:
        raise ConfigError(f"--device-memory is a GPU's: with backend {config.backend} it is --memory")
    return share(device_memory, config.backend_options)


def resolved(
    model: Model, config: EngineConfig, weights: int, length: int | None, memory: int | None
) -> tuple[EngineConfig, CacheConfig]:
    """Resolves the settings. If no KV cache fits beside the weights, plans one that holds a single sequence."""
    from octavo.assembly.engine import resolve_config
    from octavo.kv.planner import blocks_for

    try:
        return resolve_config(model, config, weights, memory)
    except CapacityError:
        if config.kv_cache_memory is not None or config.num_kv_blocks is not None:
            raise  # the settings contradict each other, whatever the memory
        tokens = config.max_model_len or min(length or model.max_context, model.max_context)
        alone: dict[str, Any] = {"num_kv_blocks": blocks_for(tokens, config.block_size), "max_model_len": tokens}
        return resolve_config(model, dataclasses.replace(config, **alone), weights, memory)


def show(facts: dict[str, Any]) -> None:
    from octavo.cli.console import megabytes, show_definitions, show_table, show_text

    threads = f"{facts['threads']} threads" if "threads" in facts else ""
    blocks = f"{facts['num_blocks']:,} blocks of {facts['block_size']} tokens, {facts['kv_cache_dtype']}"
    rows = [
        ("weights", megabytes(facts["weights"]), f"as backend {facts['backend']} holds them"),
        ("KV cache", megabytes(facts["kv_pool"]), blocks),
        ("scratch", megabytes(facts["scratch"]), threads),
        ("total", megabytes(facts["total"]), "fits" if facts["fits"] else "does not fit"),
        ("available", megabytes(facts["available"]), ""),
        ("per token", f"{facts['kv_token'] / 1024:.1f} KiB", "keys and values of all layers"),
        ("per sequence", megabytes(facts["kv_sequence"]), f"{facts['length']:,} tokens"),
        ("sequences", str(facts["max_sequences"]), "of that length at once, without shared prefixes"),
    ]
    below = facts["tiers"].items()
    rows += [(f"tier {tier}", f"{tokens:,}", "tokens whose blocks left the KV cache") for tier, tokens in below]
    widest = max(len(figure) for _, figure, _ in rows)
    show_definitions([(name, f"{figure:>{widest}}  {remark}") for name, figure, remark in rows])
    print()
    formats = [(each["kv_cache_dtype"], each["kv_token"], each["max_sequences"]) for each in facts["formats"]]
    show_table(
        ("--kv-cache-dtype", "per token", "sequences", "quality"),
        [(name, f"{size / 1024:.1f} KiB", str(count), QUALITY[name]) for name, size, count in formats],
        "<>><",
    )
    if not facts["fits"]:
        print()
        show_text(verdict(facts))


def verdict(facts: dict[str, Any]) -> str:
    """Returns what is missing, and what to change."""
    from octavo.cli.console import megabytes

    alone = facts["weights"] + facts["scratch"] > facts["available"]
    change = "choose a smaller model or quantisation" if alone else "lower --max-model-len or --kv-cache-dtype"
    needed, available = megabytes(facts["total"]), megabytes(facts["available"])
    return f"does not fit: needs {needed}, and {available} are available: {change}"
