"""`octavo tune layers`: finds the best layers for self-drafting (layer_skip)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.spec.layer_search import Candidate


@takes(engine=ENGINE)
def layers(
    model: ModelArgument,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of sample text.")] = 160,
    workload: Annotated[str, typer.Option("--workload", help="Shipped prompts that the sample text answers.")] = "chat",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per candidate.")] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Choose the layers with which a model drafts for itself (method layer_skip), and save the choice.

    Takes minutes: about fifty passes over the sample text. The methods layer_skip and auto use the result; auto only
    if it makes decoding faster.
    """
    from octavo.assembly.engine import assemble, engine_config
    from octavo.bench.layers import Bench
    from octavo.bench.written import Task, fitted, workloads, write
    from octavo.cli.console import loading_bar, note
    from octavo.spec.layer_search import search

    settings = {**engine, "speculative_config": None, "max_model_len": engine.get("max_model_len") or 1024}
    with loading_bar() as bar:
        parts = assemble(model, engine_config(**settings), progress=bar)
    if (count := parts.model.num_layers) < 3:
        raise ConfigError(f"{model} has {count} layers: the first and the last are always run, so none can be skipped")
    chosen = [Task(task.prompt, tokens // 2) for task in named(workloads(parts), workload)]
    tasks = fitted(chosen[:2], settings["max_model_len"])
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
    keep(model, best, parts.model.num_layers)
    parts.close()
    typer.echo(json.dumps(row(best)) if as_json else f"best: {line(best, parts.model.num_layers)}")


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


def keep(model: str, best: Candidate, count: int) -> None:
    from octavo.assembly.speculation import tuned_path

    path = tuned_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**row(best), "num_layers": count}) + "\n")
