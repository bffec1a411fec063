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
    from octavo.cli.console import amount, show_table
    from octavo.cli.layout import Whole

    rows = [(m.source, amount(m.size), m.title, Whole(m.path or f"octavo pull {m.source}")) for m in found]
    show_table(("model", "size", "description", "where"), rows, "<><")
