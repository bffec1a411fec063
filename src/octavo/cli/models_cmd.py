"""`octavo models`: lists models with an alias, and models in the cache folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from octavo.weights.sources import Available


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the models that can be used by name, downloaded or not, and other models in the cache folders."""
    from octavo.weights.sources import available

    found = list(available())
    if as_json:
        typer.echo(json.dumps([describe(model) for model in found]))
        return
    show(found)


def describe(model: Available) -> dict[str, str | int | bool | None]:
    path = str(model.path) if model.path else None
    return {
        "source": model.source,
        "title": model.title,
        "size": model.size,
        "pulled": path is not None,
        "path": path,
    }


def show(found: list[Available]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    table = Table("model", "description", "size")
    table.add_column("where", overflow="fold")  # a path must not be cut: people copy it
    for model in found:
        where = escape(str(model.path)) if model.path else f"[dim]octavo pull {model.source}"
        table.add_row(escape(model.source), escape(model.title), decimal(model.size), where)
    Console().print(table)
