"""`octavo rm`: deletes downloaded models."""

from __future__ import annotations

from typing import Annotated

import typer


def rm(
    sources: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models as `octavo models` names them.")],
) -> None:
    """Delete downloaded models from the cache folders. Files elsewhere are never deleted."""
    from octavo.cli.console import amount
    from octavo.weights.sources import remove

    for source in sources:
        typer.echo(f"{source}: deleted, {amount(remove(source))} are free again")
