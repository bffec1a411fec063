"""Loading a model as a whole."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from octavo.assembly import engine as assembly
from octavo.assembly.engine import assemble, engine_config
from octavo.errors import OctavoError
from tests.tiny import write_tiny_gguf


@pytest.mark.parametrize("enabled", [True, False])
def test_no_collections_while_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(gc.enable)
    seen = []
    read = assembly.load_tokenizer
    monkeypatch.setattr(assembly, "load_tokenizer", lambda *args: (seen.append(gc.isenabled()), read(*args))[1])
    if not enabled:
        gc.disable()
    config = engine_config(max_model_len=64, max_num_seqs=2)
    assemble(write_tiny_gguf(tmp_path / "tiny.gguf"), config).close()
    assert seen == [False] and gc.isenabled() is enabled
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(OctavoError):
        assemble(tmp_path / "bad.gguf", config)
    assert gc.isenabled() is enabled
