"""The pooling of embeddings that a model's file asks for: GGUF's `{arch}.pooling_type`, or sentence-transformers'
modules in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.errors import ModelFileError
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.safetensors import parse_json, read_json

GGUF_TYPES = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama.cpp's; 0 and -1 leave it open
MODULES = "modules.json"
DEFAULT_FOLDER = "1_Pooling"
MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last"}
PLAIN_MODULES = ("Transformer", "Pooling", "Normalize")


def stated_pooling(checkpoint: Checkpoint) -> str | None:
    """ "mean", "cls" or "last"; another text names what the model does instead. None: the file does not say.

    Nothing is refused here: a model that is not asked for embeddings need not be able to make them.
    """
    architecture = checkpoint.metadata.get("general.architecture")
    if architecture is not None:
        kind = checkpoint.metadata.get(f"{architecture}.pooling_type")
        return None if kind in (None, 0, -1, 0xFFFFFFFF) else GGUF_TYPES.get(kind, f"type {kind!r:.20}")
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        return _of_folder(folder)
    except (ModelFileError, OSError) as error:
        return str(error)


def pooling_files(folder: Path) -> list[Path]:
    """What `stated_pooling` reads of a folder, relative to it."""
    where = _pooling_folder(_modules(folder)) / "config.json"
    return [where] if (folder / where).is_file() else []


def _of_folder(folder: Path) -> str | None:
    modules = _modules(folder)
    if others := [kind for kind in map(_kind, modules) if kind not in PLAIN_MODULES]:
        return f"followed by {others[0]}"
    path = folder / _pooling_folder(modules) / "config.json"
    return _mode(read_json(path)) if path.is_file() else None


def _mode(config: Mapping[str, Any]) -> str | None:
    """Older folders have a flag for each mode, newer ones a name."""
    named = config.get("pooling_mode")
    flags = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else flags
    texts = [MODES.get(str(mode), str(mode)) for mode in modes]
    return " and ".join(texts) or None


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, which lists what follows the transformer."""
    path = folder / MODULES
    if not path.is_file():
        return []
    modules = parse_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelFileError(f"{path}: must be a list of objects")
    return modules


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _pooling_folder(modules: list[dict[str, Any]]) -> Path:
    """A path that leaves the model's folder is not followed."""
    stated = next((str(module.get("path", "")) for module in modules if _kind(module) == "Pooling"), DEFAULT_FOLDER)
    inside = Path(stated).name == stated and stated not in ("", "..")
    return Path(stated if inside else DEFAULT_FOLDER)
