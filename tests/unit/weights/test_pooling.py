"""The pooling that a model's file asks for, from GGUF's key and from sentence-transformers' folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM
from octavo.backends.cpu.packing import LAYOUT, panels
from octavo.errors import RequestError
from octavo.models.registry import build_model
from octavo.weights import open_checkpoint
from octavo.weights.artifact import write_artifact
from octavo.weights.pooling import stated_pooling
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf

FLAGS = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("kind", "expected"), [(None, None), (0, None), (1, "mean"), (2, "cls"), (3, "last"), (4, "rank"), (9, "type 9")]
)
def test_gguf(kind: int | None, expected: str | None, tmp_path: Path) -> None:
    keys = {} if kind is None else {"pooling_type": kind}
    with open_checkpoint(write_tiny_gguf(tmp_path / "m.gguf", Tiny(gguf=keys))) as file:
        assert stated_pooling(file) == expected


def folder(path: Path, pooling: Any = None, modules: Any = None, where: str = "1_Pooling") -> Path:
    write_tiny_hf(path)
    if pooling is not None:
        (path / where).mkdir()
        (path / where / "config.json").write_text(json.dumps(pooling))
    if modules is not None:
        (path / "modules.json").write_text(json.dumps(modules))
    return path


FOLDERS: dict[str, tuple[Any, Any, str | None]] = {
    "not an embedding model": (None, None, None),
    "last": ({**FLAGS, "pooling_mode_lasttoken": True}, [TRANSFORMER, POOLING, NORMALIZE], "last"),
    "mean, no list of modules": ({**FLAGS, "pooling_mode_mean_tokens": True}, None, "mean"),
    "cls": ({**FLAGS, "pooling_mode_cls_token": True}, [TRANSFORMER, POOLING], "cls"),
    "a name": ({"embedding_dimension": 64, "pooling_mode": "lasttoken"}, [TRANSFORMER, POOLING], "last"),
    "names": ({"pooling_mode": ["cls", "mean"]}, None, "cls and mean"),
    "two": ({**FLAGS, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, None, "cls and max_tokens"),
    "a projection": ({**FLAGS, "pooling_mode_mean_tokens": True}, [TRANSFORMER, POOLING, DENSE], "followed by Dense"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    pooling, modules, expected = FOLDERS[name]
    with open_checkpoint(folder(tmp_path / "m", pooling, modules)) as opened:
        assert stated_pooling(opened) == expected


def test_modules_say_where_it_is_but_not_outside_of_the_folder(tmp_path: Path) -> None:
    last = {**FLAGS, "pooling_mode_lasttoken": True}
    with open_checkpoint(folder(tmp_path / "a", last, [{**POOLING, "path": "9_P"}], where="9_P")) as opened:
        assert stated_pooling(opened) == "last"
    (tmp_path / "config.json").write_text(json.dumps(last))
    with open_checkpoint(folder(tmp_path / "b", None, [{**POOLING, "path": ".."}])) as opened:
        assert stated_pooling(opened) is None


def test_files_that_are_not_json_name_themselves(tmp_path: Path) -> None:
    """The model still loads: only a request for embeddings is told."""
    path = folder(tmp_path / "m", FLAGS)
    (path / "modules.json").write_text("{")
    with open_checkpoint(path) as opened:
        assert "modules.json: not valid JSON" in (stated_pooling(opened) or "")


def test_embeddings_use_it(tmp_path: Path) -> None:
    """In a folder, and in the artifact made of it. A request may ask for another pooling."""
    source = folder(tmp_path / "m", {**FLAGS, "pooling_mode_lasttoken": True}, [TRANSFORMER, POOLING, NORMALIZE])
    checkpoint = open_checkpoint(source)
    model = build_model(checkpoint)
    write_artifact(tmp_path / "made", checkpoint, model.weights, lambda: panels(model), LAYOUT)
    for path in (source, tmp_path / "made"):
        with LLM(path, max_model_len=64, num_kv_blocks=8, threads=1) as llm:
            chosen = llm.embed("the sun")[0].outputs.embedding
            assert chosen == llm.embed("the sun", pooling="last")[0].outputs.embedding
            assert chosen != llm.embed("the sun", pooling="mean")[0].outputs.embedding
            first = llm.embed("x sun", pooling="cls")[0].outputs.embedding
            assert first == llm.embed("x", pooling="last")[0].outputs.embedding  # the first token of both
            assert llm.score("the sun", "the sun")[0].outputs.score == pytest.approx(1)


def test_dimensions_cut_and_normalise_again(tmp_path: Path) -> None:
    with LLM(write_tiny_gguf(tmp_path / "m.gguf"), max_model_len=64, num_kv_blocks=8, threads=1) as llm:
        whole = np.array(llm.embed("the sun")[0].outputs.embedding)
        cut = np.array(llm.embed("the sun", dimensions=16)[0].outputs.embedding)
        np.testing.assert_allclose(cut, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
        with pytest.raises(RequestError, match="dimensions must be from 1 to 64, the model's own; got 65"):
            llm.embed("the sun", dimensions=65)


def test_a_pooling_that_is_not_supported_is_named_when_embeddings_are_made(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", Tiny(gguf={"pooling_type": 4}))
    with LLM(path, max_model_len=64, num_kv_blocks=8, threads=1) as llm:
        with pytest.raises(RequestError, match=r"this model's pooling \(rank\) is not supported: pooling must be mean"):
            llm.embed("the sun")
        assert len(llm.embed("the sun", pooling="mean")[0].outputs.embedding) == 64
