"""`octavo compare`: Octavo and other engines on the same workload, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import GivenModel, ModelOption, given_model
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.bench.compare import Comparison

OURS = "octavo"
ALL = f"{OURS},llama.cpp,openvino,vllm,transformers"


def compare(
    model: GivenModel = None,
    model_option: ModelOption = None,
    engines: Annotated[
        str | None, typer.Option("--engines", help=f"Engines, separated by commas; by default {ALL}.")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")] = "1,4,16",
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", help="Tokens in each prompt.")] = 128,
    gen_tokens: Annotated[int, typer.Option("--gen-tokens", help="Tokens to generate for each prompt.")] = 64,
    repeat: Annotated[int, typer.Option("--repeat", help="Number of rounds; the best one counts.")] = 3,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of every engine; by default one per physical core.")
    ] = None,
    python_for: Annotated[
        list[str],
        typer.Option("--python-for", metavar="ENGINE=PYTHON", help="Python that has this engine; may be repeated."),
    ] = [],  # noqa: B006  # typer reads it, nobody writes it
    model_for: Annotated[
        list[str],
        typer.Option("--model-for", metavar="ENGINE=PATH", help="Model for this engine; may be repeated."),
    ] = [],  # noqa: B006
    url: Annotated[
        list[str], typer.Option("--url", metavar="NAME=URL", help="Also measure this server; may be repeated.")
    ] = [],  # noqa: B006
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report to this file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write everything to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure engines side by side. Each runs in a separate process, in turns, greedy, on the same random prompts.

    Install each other engine in a virtual environment, and name it with --python-for or with the environment variable
    OCTAVO_PEER_<NAME>_PYTHON, for example OCTAVO_PEER_LLAMA_CPP_PYTHON. Run nothing else meanwhile.

    If an engine that an option names could not be measured, the exit status is 2, after the results of the others.
    """
    for path in (report, output):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.absolute().parent}")
    shape = (batch, prompt_tokens, gen_tokens, repeat)
    values = (pairs("--python-for", python_for), pairs("--model-for", model_for), pairs("--url", url))
    wanted = comparison(given_model(model, model_option), engines or ALL, shape, threads, *values)
    result = measure(wanted)
    if output is not None:
        output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if report is not None:
        from octavo.bench.report import html

        report.write_text(html(result), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result)
    check_measured(result, {*(wanted.engines if engines else [OURS]), *(name for each in values for name in each)})


def pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Parses NAME=VALUE texts. Raises ConfigError."""
    split = [text.partition("=") for text in texts]
    for (name, _, value), text in zip(split, texts, strict=True):
        if not name or not value:
            raise ConfigError(f"{option} must have the form NAME=VALUE; got {text!r}")
    return {name: value for name, _, value in split}


def comparison(
    model: str,
    engines: str,
    shape: tuple[str, int, int, int],
    threads: int | None,
    pythons: dict[str, str],
    models: dict[str, str],
    urls: dict[str, str],
) -> Comparison:
    from octavo.bench.compare import Comparison
    from octavo.bench.engine import check_workload
    from octavo.bench.workload import Workload
    from octavo.cli.bench import sizes
    from octavo.config import usable_threads
    from octavo.weights.sources import resolve

    batch, *rest = shape
    workload = Workload(sizes(batch), *rest)
    check_workload(workload)
    names = [name.strip() for name in engines.split(",") if name.strip()]
    for option, given in (("--python-for", pythons), ("--model-for", models)):
        if unused := given.keys() - set(names):
            raise ConfigError(f"{option} names {min(unused)}, which is not one of the engines: {', '.join(names)}")
    path = str(resolve(model).absolute())
    return Comparison(path, names, workload, usable_threads(threads), pythons, models, urls)


def measure(wanted: Comparison) -> dict[str, Any]:
    """Runs the comparison. Adds Octavo's speeds as fractions of this machine's limits."""
    from octavo.bench.compare import run
    from octavo.bench.limits import current, to_json
    from octavo.bench.work import fractions, points, work_of
    from octavo.cli.console import note
    from octavo.models.registry import load_model

    result = run(wanted, note)
    if ours := [row for row in result["rows"] if row["engine"] == OURS]:
        limits = current("auto", wanted.threads)
        work = work_of(load_model(wanted.model), "bf16")  # the cache type that "auto" means
        for row in ours:
            row.update(fractions(row, work, limits))
        result["limits"] = to_json(limits)
        result["roofline"] = [point for row in ours for point in points(row, work)]
    return result


def check_measured(result: dict[str, Any], named: set[str]) -> None:
    """Raises ConfigError if a named engine has no figures. A script must not take that for success."""
    measured = {row["engine"] for row in result["rows"]}
    notes = {engine["engine"]: engine["note"] for engine in result["engines"]}
    if lacking := [f"{name} ({notes[name]})" for name in notes if name in named - measured]:
        raise ConfigError(f"not measured: {'; '.join(lacking)}")


def show(result: dict[str, Any]) -> None:
    from octavo.bench.report import absent, table
    from octavo.cli.console import show_table, show_text

    print(f"tokens per second: {Path(result['model']).name}")
    show_table(*table(result), "<>")
    for name, why in absent(result):
        show_text(f"{name}: {why}")
