"""The data of `octavo info`, read from a model's metadata and tensor entries only: no tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from octavo.weights.artifact import Artifact
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.gguf import GGUFFile

# Displayed field: (GGUF key after "ARCH.", config.json key)
FIELDS: dict[str, tuple[str, str]] = {
    "layers": ("block_count", "num_hidden_layers"),
    "hidden_size": ("embedding_length", "hidden_size"),
    "feed_forward": ("feed_forward_length", "intermediate_size"),
    "heads": ("attention.head_count", "num_attention_heads"),
    "kv_heads": ("attention.head_count_kv", "num_key_value_heads"),
    "head_dim": ("attention.key_length", "head_dim"),
    "context_length": ("context_length", "max_position_embeddings"),
    "vocab_size": ("vocab_size", "vocab_size"),
}


def summarise(checkpoint: Checkpoint) -> dict[str, Any]:
    """Plain values (JSON types; None where the file does not say). Sizes in bytes; one `quantization` entry a type."""
    gguf = isinstance(checkpoint, GGUFFile) or "general.architecture" in checkpoint.metadata
    summary = _describe_gguf(checkpoint) if gguf else _describe_folder(checkpoint)
    if isinstance(checkpoint, Artifact):
        summary["format"] = f"artifact of {checkpoint.source.get('file')}"
    if summary["head_dim"] is None and _positive(summary["hidden_size"]) and _positive(summary["heads"]):
        summary["head_dim"] = summary["hidden_size"] // summary["heads"]
    summary["parameters"] = sum(prod(w.shape) for w in checkpoint.tensors.values())
    summary["quantization"] = quantization(checkpoint)
    return {"path": str(checkpoint.path), "size": checkpoint.size, **summary}


def quantization(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Tensors, parameters and bytes of each encoding, the largest first."""
    mix: dict[str, dict[str, Any]] = {}
    for weight in checkpoint.tensors.values():
        entry = mix.setdefault(weight.type, {"type": weight.type, "tensors": 0, "parameters": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["parameters"] += prod(weight.shape)
        entry["bytes"] += weight.data.nbytes
    return sorted(mix.values(), key=lambda entry: -entry["bytes"])


def _describe_gguf(checkpoint: Checkpoint) -> dict[str, Any]:
    metadata = checkpoint.metadata
    architecture = metadata.get("general.architecture")
    fields = {name: _plain(metadata.get(f"{architecture}.{key}")) for name, (key, _) in FIELDS.items()}
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence) and not isinstance(tokens, str):
        fields["vocab_size"] = len(tokens)
    tokenizer = [metadata[k] for k in ("tokenizer.ggml.model", "tokenizer.ggml.pre") if k in metadata]
    return {
        "format": "gguf",
        "name": _plain(metadata.get("general.name")),
        "architecture": _plain(architecture),
        **fields,
        "tokenizer": " / ".join(str(_plain(name)) for name in tokenizer) or None,
        "chat_template": "tokenizer.chat_template" in metadata,
    }


def _describe_folder(checkpoint: Checkpoint) -> dict[str, Any]:
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    config = checkpoint.metadata
    text = config.get("text_config", config)  # multimodal models nest the language model's settings
    settings = text if isinstance(text, Mapping) else config
    return {
        "format": "safetensors",
        "name": folder.name,
        "architecture": config.get("model_type"),
        **{name: _plain(settings.get(key)) for name, (_, key) in FIELDS.items()},
        "tokenizer": "tokenizer.json" if (folder / "tokenizer.json").is_file() else None,
        "chat_template": _has_chat_template(folder),
    }


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and '"chat_template"' in settings.read_text(errors="replace")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _plain(value: Any) -> Any:
    """Converts a value to JSON types. Some files give an array with a value for each layer, a hostile one anything."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):  # a string that is not UTF-8
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, str | int | float) else str(value)
