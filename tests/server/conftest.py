"""What many tests share: servers (a tiny random model, SmolLM2 where text must be sensible) and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import model_path
from tests.server import browser as chromium
from tests.server.browser import Browser
from tests.server.fake import Fake, serve
from tests.server.harness import Server, serving
from tests.server.page_probes import PAGE, READY
from tests.server.state import state
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


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    with chromium.browser() as opened:
        yield opened


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serve(Fake(page=PAGE, pieces=["Hello ", "there", "."], state=state())) as running:
        yield running


@pytest.fixture
def page(window: Browser, fake: Fake) -> Iterator[Browser]:
    """The page, opened; at the end no script has failed and the policy has blocked nothing."""
    window.complaints.clear()
    window.requested.clear()
    window.window(1280, 860)
    window.open(f"{fake.url}/icon.svg")  # the port may be that of an earlier test, and the browser knows it
    window.js("localStorage.clear(), sessionStorage.clear()")
    window.open(fake.url)
    window.wait(READY)
    yield window
    assert window.complaints == []
