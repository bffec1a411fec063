from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import Tiny, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with a chat template and a context of 512 tokens."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a context so large that an answer takes minutes."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "endless.gguf", Tiny(context=200_000))
