"""`octavo cache`: looks at the KV caches that --kv-disk-cache keeps in a folder, checks them, deletes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.kv.slab import Slab

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="What --kv-disk-cache names.")]


@dataclass(frozen=True)
class Found:
    """A file of the folder. trouble: why it cannot be read ("" if it can)."""

    path: Path
    size: int
    in_use: bool
    trouble: str
    title: str = ""
    blocks: int = 0  # that hold something
    slots: int = 0


def ls(
    folder: FolderArgument, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """List the KV caches in a folder: the model, how full they are, and whether a process uses them."""
    from octavo.cli.console import amount, show_table

    found = [look(path) for path in slabs(folder)]
    if as_json:
        typer.echo(json.dumps([described(each) for each in found]))
        return
    rows = [
        (each.path.name, amount(each.size), f"{each.blocks}/{each.slots}", "yes" if each.in_use else "", name_of(each))
        for each in found
    ]
    show_table(("file", "size", "blocks", "in use", "model"), rows, "<>><<")


def verify(folder: FolderArgument) -> None:
    """Read every block of the KV caches in a folder, and report those that are damaged. Status 1 if any is.

    A damaged block does no harm: it is computed again.
    """
    bad = 0
    for path in slabs(folder):
        each = look(path)
        damaged = 0 if each.trouble else sum(1 for sound in check(path) if not sound)
        typer.echo(f"{path.name}: {each.trouble or f'{each.blocks - damaged} blocks are sound, {damaged} are damaged'}")
        bad += damaged + bool(each.trouble)
    if bad:
        raise typer.Exit(1)


def clear(folder: FolderArgument) -> None:
    """Delete the KV caches in a folder. Other files stay. A cache that a process uses is not deleted (status 2)."""
    from octavo.cli.console import amount

    used = []
    for path in slabs(folder):
        each = look(path)
        if each.in_use:
            used.append(path.name)
        else:
            path.unlink()
            typer.echo(f"{path.name}: deleted, {amount(each.size)} are free again")
    if used:
        raise ConfigError(f"not deleted: {', '.join(used)}: a process uses it; stop that first")


def slabs(folder: Path) -> list[Path]:
    """The caches in a folder. Raises ConfigError if there is no such folder."""
    if not folder.expanduser().is_dir():
        raise ConfigError(f"{folder} is not a folder: give the one that --kv-disk-cache names")
    return sorted(path for path in folder.expanduser().glob("kv-*.slab") if path.is_file() and not path.is_symlink())


def look(path: Path) -> Found:
    from octavo.kv.slab import NotASlab, in_use

    size = path.stat().st_size
    try:
        with opened(path) as slab:
            header = slab.header
            return Found(path, size, in_use(path), "", header.title, len(slab.entries()), header.slots)
    except NotASlab as reason:
        return Found(path, size, in_use(path), str(reason))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def check(path: Path) -> Iterator[bool]:
    """Whether each block of a cache is what its entry says. A block that is overwritten meanwhile may look damaged."""
    import numpy as np

    with opened(path) as slab:
        into = np.empty(slab.header.block_bytes, np.uint8)
        for entry in slab.entries():
            yield slab.read(entry, into)


def opened(path: Path) -> closing[Slab]:
    from octavo.kv.slab import read_slab

    return closing(read_slab(path))


def name_of(each: Found) -> str:
    return each.title or f"({each.trouble})"


def described(each: Found) -> dict[str, Any]:
    return {
        "path": str(each.path),
        "bytes": each.size,
        "blocks": each.blocks,
        "slots": each.slots,
        "in_use": each.in_use,
        "model": each.title,
        "trouble": each.trouble,
    }
