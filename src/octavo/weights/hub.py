"""Models on the Hugging Face hub: `hf:org/repo`, `hf:org/repo:file.gguf`, `hf:org/repo:Q4_K_M`.

huggingface-hub does the transfer and keeps the files in its own cache, shared with other programs. It is imported only
for downloads; cached models are found by the cache's folder layout.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.errors import ModelFileError

PREFIX = "hf:"
SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+))?")
SPLIT = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
FOLDER_FILES = ("*.safetensors", "*.json", "*.jinja")

# Preference among several GGUF files: the usual balance of size and quality comes first.
PREFERENCE = (
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q4_1", "Q4_0", "Q5_1", "Q5_0", "IQ4_XS", "IQ4_NL", "Q6_K", "Q8_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "BF16", "F16", "F32",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubSource:
    """A parsed source. file: a file of the repo, or the name of a quantisation, or None for the preferred file."""

    repo: str
    file: str | None

    @classmethod
    def parse(cls, source: str) -> HubSource:
        match = SOURCE.fullmatch(source)
        if not match:
            raise ModelFileError(f"{source!r} is not of the form hf:org/repo or hf:org/repo:file.gguf")
        return cls(match["repo"], match["file"])


def choose(names: list[str], source: HubSource) -> str | None:
    """The GGUF file to take (of a split one, the first part), or None for the folder of safetensors."""
    if source.file and source.file in names:
        return source.file
    models = [n for n in sorted(names) if n.endswith(".gguf") and "mmproj" not in n.lower()]
    models = [n for n in models if not (part := SPLIT.search(n)) or part[1] == "00001"]
    if source.file:
        models = [n for n in models if source.file.lower() in n.lower()]
    if models:
        return min(models, key=_rank)
    if not source.file and any(n.endswith(".safetensors") for n in names) and "config.json" in names:
        return None
    raise ModelFileError(f"hf:{source.repo} has no {source.file or 'GGUF file and no safetensors with a config.json'}")


def _rank(name: str) -> tuple[int, int]:
    tags = [i for i, tag in enumerate(PREFERENCE) if re.search(rf"(?i)(?<![a-z0-9]){tag}(?![a-z0-9_])", name)]
    return min(tags, default=len(PREFERENCE)), len(name)


def hub_cache() -> Path:
    """huggingface-hub's cache folder, by its documented variables."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser() / "hub"


def repo_folder(source: HubSource) -> Path:
    return hub_cache() / f"models--{source.repo.replace('/', '--')}"


def find_cached(source: HubSource) -> Path | None:
    """The model in the hub's cache, complete, or None. Looks at the snapshot that `main` points to."""
    folder = repo_folder(source)
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        names = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()]
        file = choose(names, source)
    except (OSError, ModelFileError):
        return None
    if file is None:
        return snapshot
    return snapshot / file if all(part in names for part in parts_of(file)) else None


def parts_of(file: str) -> list[str]:
    """All files of a split GGUF, given its first part."""
    match = SPLIT.search(file)
    if not match:
        return [file]
    count = file[-10:-5]
    return [f"{file[: match.start()]}-{i:05}-of-{count}.gguf" for i in range(1, int(count) + 1)]


def cached_sources() -> Iterator[tuple[str, Path]]:
    """(hf: source, path) of the GGUF files and safetensors folders in the hub's cache."""
    for folder in sorted(hub_cache().glob("models--*--*")):
        source = PREFIX + folder.name.removeprefix("models--").replace("--", "/", 1)
        for file in sorted(folder.glob("snapshots/*/*.gguf")):
            yield f"{source}:{file.name}", file
        for config in sorted(folder.glob("snapshots/*/config.json")):
            if any(config.parent.glob("*.safetensors")):
                yield source, config.parent


def fetch(source: HubSource) -> Path:
    """Downloads the model (huggingface-hub shows its own progress bars) and returns its path. Raises ModelFileError."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    from octavo.weights.reachable import why_unreachable

    if not constants.HF_HUB_OFFLINE and (reason := why_unreachable(constants.ENDPOINT)):
        raise ModelFileError(
            f"hf:{source.repo}: {constants.ENDPOINT} cannot be reached ({reason}): check the network, HTTPS_PROXY or "
            "HF_ENDPOINT, or give the path of a model file"
        )
    try:
        file = choose(hub.list_repo_files(source.repo), source)
        if file is None:
            return Path(hub.snapshot_download(source.repo, allow_patterns=list(FOLDER_FILES)))
        paths = [Path(hub.hf_hub_download(source.repo, part)) for part in parts_of(file)]
        return paths[0]
    except ModelFileError:
        raise
    except Exception as error:  # the hub client's errors all concern the network, the name or access rights
        raise ModelFileError(f"hf:{source.repo}: {_first_line(error)}") from error


def remove(source: HubSource) -> int:
    """Deletes a repo, or one file of it, from the hub's cache. Returns its bytes. Raises ModelFileError."""
    folder = repo_folder(source)
    if source.file is None:
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    else:
        first = find_cached(source)
        links = [] if first is None else [first.with_name(Path(part).name) for part in parts_of(first.name)]
        files = [*links, *{link.resolve() for link in links if link.is_symlink()}]
    if not files:
        raise ModelFileError(f"cannot delete {PREFIX}{source.repo}: it is not in {hub_cache()}")
    size = sum(file.stat().st_size for file in files if not file.is_symlink())
    if source.file is None:
        shutil.rmtree(folder)
    else:
        for file in files:
            file.unlink()
    return size


def _first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
