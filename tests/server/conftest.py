"""Servers that many tests share: a tiny random model by default, SmolLM2 where text must be sensible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import model_path
from tests.server.harness import Server, serving
from tests.tiny import Tiny, write_tiny_gguf


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two small layers with a context of 512 tokens."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


@pytest.fixture(scope="session")
def tiny(tiny_model: Path, logs: Path) -> Iterator[Server]:
    """No test may break it."""
    with serving(tiny_model, folder=logs) as server:
        yield server
        assert "Traceback" not in server.log


FILL_MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")


@pytest.fixture(scope="session")
def coder(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Server]:
    """A tiny model whose vocabulary has the tokens for fill-in-the-middle. No test may break it."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("coder") / "coder.gguf", Tiny(), FILL_MARKS)
    with serving(path, folder=logs) as server:
        yield server
        assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def smollm(logs: Path) -> Iterator[Server]:
    """No test may break it."""
    path = model_path("smollm2-135m")
    with serving(path, "--served-model-name", "smollm2", "--max-model-len", "2048", folder=logs) as server:
        yield server
        assert "Traceback" not in server.log
