"""`octavo bench limits`: the limits of this machine, with which `octavo bench` compares its speeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from octavo.bench.limits import Limits


def limits(
    isa: Annotated[str, typer.Option("--isa", help="Instruction set: auto, amx, avx512, avx2 or portable.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; by default one per physical core.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Save the limits for later runs of `octavo bench`.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the roofline into this SVG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how fast this machine multiplies and reads memory, with one thread and with all threads.

    Each figure is the best of several runs. Run nothing else meanwhile, or the figures are too low.
    """
    from octavo.bench.limits import measure, to_json
    from octavo.bench.limits import save as keep

    found = measure(isa, threads)
    if as_json:
        typer.echo(json.dumps(to_json(found)))
    else:
        show(found)
    if plot is not None:
        from octavo.bench.roofline import roofline

        plot.write_text(roofline(found, []), encoding="utf-8")
    if save:
        typer.echo(f"saved in {keep(found)}", err=True)


def show(found: Limits) -> None:
    from octavo.cli.console import show_table

    counts = sorted({1, found.threads})
    titles = ("limit", "measured with", *(f"{n} thread{'s' * (n > 1)}" for n in counts))
    rows = [(loop.kind, loop.instruction, *(f"{loop.gops[n]:,.0f} GOPS" for n in counts)) for loop in found.loops]
    for streams in sorted({read.streams for read in found.reads}):
        at_once = f"{found.buffer_bytes / 1e6:.0f} MB, {streams} stream{'s' * (streams > 1)} per thread"
        figures = {read.threads: read.gbs for read in found.reads if read.streams == streams}
        rows.append(("memory read", at_once, *(f"{figures[n]:.1f} GB/s" for n in counts)))
    print(f"{found.cpu}, {found.isa}")
    show_table(titles, rows, "<<>")
