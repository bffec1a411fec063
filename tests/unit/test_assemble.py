"""Loading a model as a whole."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from octavo.assembly import engine as assembly
from octavo.assembly.engine import assemble, engine_config
from octavo.errors import ConfigError, OctavoError, TokenizerError
from tests import tiny
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf


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


def test_a_pre_tokenizer_given_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces the name in a GGUF file, also an unknown one; a folder's tokenizer has no names."""
    plain = tiny.tiny_metadata(Tiny(layers=1)) | {"tokenizer.ggml.pre": "novel"}
    monkeypatch.setattr(tiny, "tiny_metadata", lambda _: plain)
    novel = write_tiny_gguf(tmp_path / "novel.gguf", Tiny(layers=1))
    with pytest.raises(TokenizerError, match="novel"):
        assemble(novel, engine_config(backend="null"))
    made = assemble(novel, engine_config(backend="null", tokenizer_pre="gpt-2"))
    assert made.config.tokenizer_pre == "gpt-2" and made.tokenizer.encode("a")
    folder = write_tiny_hf(tmp_path / "folder", Tiny(layers=1))
    with pytest.raises(ConfigError, match="tokenizer_pre 'gpt-2'"):
        assemble(folder, engine_config(backend="null", tokenizer_pre="gpt-2"))
