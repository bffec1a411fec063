"""Deliberately small, complete model files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from octavo.ir import Weight
from octavo.weights.formats import FORMATS, GGUF_TYPES
from octavo.weights.gguf_writer import write_gguf

ROWS, COLUMNS = 2, 256


def random_weight(type: str, rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> Weight:
    """Random bytes: any bytes are a weight in every encoding, though some scales are not finite."""
    format = FORMATS[type]
    size = rows * columns // format.block_size * format.block_bytes
    data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Weight(f"blk.0.{type}.weight", (rows, columns), type, data)


def tiny_metadata(vocab: int) -> dict[str, Any]:
    """Every value type, alone and in arrays, then a vocabulary."""
    scalars = {code: np.dtype(code).type(1) for code in "BbHhIifQqd"}
    return {
        "general.architecture": "llama",
        "general.name": "tiny, naïve 模型",
        "general.alignment": 32,
        "split.count": 0,
        **{f"scalar.{code}": value for code, value in scalars.items()},
        "scalar.bool": True,
        **{f"array.{code}": np.arange(5).astype(code) for code in scalars},
        "array.bool": [True, False],
        "array.empty": np.zeros(0, "<f4"),
        "llama.block_count": 1,
        "llama.embedding_length": COLUMNS,
        "llama.attention.head_count": 4,
        "llama.context_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.tokens": [f"töken{i}" for i in range(vocab)],
        "tokenizer.ggml.token_type": np.ones(vocab, np.int32),
    }


def write_tiny(path: Path, vocab: int = 20) -> Path:
    weights = {w.name: w for w in (random_weight(type) for type in GGUF_TYPES)}
    norm = Weight("norm.weight", (COLUMNS,), "F32", np.ones(COLUMNS, "<f4").view(np.uint8))
    write_gguf(path, tiny_metadata(vocab), weights | {norm.name: norm})
    return path


def folder_config() -> dict[str, Any]:
    return {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}


def write_folder(folder: Path) -> Path:
    """A Hugging Face folder with one safetensors file, written by the safetensors library."""
    values = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    tensors = {
        "a.weight": values,
        "b.weight": values[0].astype(np.float16),
        "c.weight": values.astype(ml_dtypes.bfloat16),
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(folder_config()))
    return folder
