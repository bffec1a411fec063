"""`octavo build`: packs a model once, so that each start maps the weights instead of packing them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.options import ModelArgument, QuietOption


def build(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", metavar="DIR")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing artifact.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Pack a model's weights into a folder once. `octavo run DIR` then maps it instead of packing at every start.

    Processes that use the same folder share its memory. The output stays the same, bit for bit.
    """
    start = time.perf_counter()
    size = make(model, output, force)
    seconds = round(time.perf_counter() - start, 2)
    if as_json:
        typer.echo(json.dumps({"path": str(output), "bytes": size, "seconds": seconds}))
        return
    typer.echo(output)
    if not quiet:
        from octavo.cli.console import megabytes, note

        note(f"{megabytes(size)} in {seconds} s; now: octavo run {output} PROMPT")


def make(model: str, output: Path, force: bool) -> int:
    """Writes the artifact and returns its bytes. Raises the errors of loading, and ConfigError if it cannot write."""
    from octavo.backends.cpu.packing import LAYOUT, panels
    from octavo.cli.console import loading_bar
    from octavo.models.registry import build_model, open_checkpoint
    from octavo.weights.artifact import write_artifact
    from octavo.weights.sources import resolve

    with open_checkpoint(resolve(model)) as checkpoint, loading_bar() as bar:
        made = build_model(checkpoint)
        return write_artifact(output, checkpoint, made.weights, lambda: panels(made, bar), LAYOUT, force)
