"""`octavo pull`: downloads a model into the cache folder."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(source: Annotated[str, typer.Argument(help="An alias (see `octavo models`) or hf:org/repo[:file].")]) -> None:
    """Download a model into the cache folder, check it, and print its path."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from octavo.weights import sources

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=source not in sources.ALIASES) as bar:
        task = bar.add_task(source, total=None)

        def progress(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{source}, {label}")

        path = sources.pull(source, progress)
    typer.echo(str(path))
