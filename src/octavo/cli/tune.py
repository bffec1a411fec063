"""`octavo tune layers`: finds the best layers for self-drafting (layer_skip)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from octavo.spec.layer_search import Candidate

# Agreement measured on n tokens has a standard error of up to 0.5 / sqrt(n): 5 % here.
FEWEST = 100


@takes(engine=ENGINE)
def layers(
    model: ModelArgument,
    tokens: Annotated[int, typer.Option("--tokens", help=f"Tokens of sample text, at least {FEWEST}.")] = 160,
    workload: Annotated[str, typer.Option("--workload", help="Shipped prompts that the sample text answers.")] = "chat",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per candidate.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Choose the layers with which a model drafts for itself (method layer_skip), and save the choice.

    Takes minutes: about fifty passes over the sample text. The choice is saved in the cache folder; the last line says
    where. The methods layer_skip and auto use it; auto only if it makes decoding faster.
    """
    from octavo.assembly.engine import assemble, engine_config
    from octavo.bench.layers import Bench
    from octavo.bench.written import Task, fitted, workloads, write
    from octavo.cli.console import loading_bar, note, show_text
    from octavo.spec.layer_search import search

    if tokens < FEWEST:
        raise ConfigError(f"tokens must be at least {FEWEST}: on fewer, chance decides; got {tokens}")
    settings = {**engine, "speculative_config": None, "max_model_len": engine.get("max_model_len") or 1024}
    with loading_bar() as bar:
        parts = assemble(model, engine_config(**settings), progress=bar)
    if (count := parts.model.num_layers) < 3:
        raise ConfigError(f"{model} has {count} layers: the first and the last are always run, so none can be skipped")
    chosen = named(workloads(parts), workload)[:2]
    tasks = fitted([Task(task.prompt, -(-tokens // len(chosen))) for task in chosen], settings["max_model_len"])
    if (room := sum(task.tokens for task in tasks)) < FEWEST:
        raise ConfigError(f"max_model_len leaves room for {room} tokens, and it takes {FEWEST}: raise it")
    texts = [(task.prompt + out, len(task.prompt)) for task, out in zip(tasks, write(parts, tasks, 0.0), strict=True)]
    best: Candidate | None = None
    for candidate in search(parts.model.num_layers, Bench(parts, texts).judge()):
        if as_json:
            typer.echo(json.dumps(row(candidate)))
        else:
            note(line(candidate, parts.model.num_layers))
        if best is None or candidate.speedup > best.speedup:
            best = candidate
    assert best is not None
    path = keep(model, best, parts.model.num_layers)
    parts.close()
    if as_json:
        typer.echo(json.dumps(row(best) | {"path": str(path)}))
    else:
        gain = "" if best.speedup > 1 else "; slower than plain decoding, so auto will not use it"
        show_text(f"best: {line(best, parts.model.num_layers)}{gain}\nsaved in {path}")


def named(found: dict[str, Any], name: str) -> Any:
    if name not in found:
        raise ConfigError(f"workload must be one of {', '.join(found)}; got {name!r}")
    return found[name]


def row(candidate: Candidate) -> dict[str, Any]:
    return {
        "layers": list(candidate.layers),
        "acceptance": round(candidate.acceptance, 4),
        "cost": round(candidate.cost, 4),
        "draft_length": candidate.length,
        "expected_speedup": round(candidate.speedup, 4),
    }


def line(candidate: Candidate, count: int) -> str:
    gone = ",".join(str(layer) for layer in range(count) if layer not in candidate.layers)
    return (
        f"without {gone}: {candidate.acceptance:.0%} agree, {candidate.cost:.2f} of a step, "
        f"expected {candidate.speedup:.2f}x with drafts of {max(1, candidate.length)}"
    )


def keep(model: str, best: Candidate, count: int) -> Path:
    """Saves the choice and returns its file."""
    from octavo.assembly.speculation import tuned_path

    path = tuned_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**row(best), "num_layers": count}) + "\n")
    return path
