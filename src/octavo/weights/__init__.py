"""Model files: sources, containers and tensor encodings."""

from __future__ import annotations

from pathlib import Path

from octavo.errors import ModelFileError
from octavo.weights.checkpoint import Checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a GGUF file, an artifact, a model folder, or a .safetensors file with config.json beside it.

    Raises ModelFileError.
    """
    from octavo.weights.artifact import is_artifact, open_artifact
    from octavo.weights.gguf import open_gguf
    from octavo.weights.safetensors import open_safetensors

    path = Path(path)
    if is_artifact(path):
        return open_artifact(path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelFileError(f"{path}: a model folder needs a config.json, or exactly one .gguf file")
    return open_safetensors(path) if path.is_dir() or path.suffix == ".safetensors" else open_gguf(path)
