"""Folders of base models: saved without a language-model head. They embed texts and generate none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, BeamSearchParams, ConfigError, ModelFileError, RequestError, SamplingParams
from octavo.cli.build import make
from octavo.models.registry import load_model
from tests.tiny import BASES, write_base

TEXTS = ["the rate", "hello there", "a"]


def vectors(path: Path, **settings: Any) -> np.ndarray[Any, Any]:
    with LLM(path, max_model_len=64, **settings) as llm:
        return np.array([output.outputs.data for mode in ("mean", "last") for output in llm.encode(TEXTS, mode)])


@pytest.mark.parametrize("family", BASES)
def test_a_model_without_a_head_embeds_as_with_one(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    assert not load_model(base).has_head and load_model(tmp_path / "base-whole").has_head
    assert np.array_equal(vectors(base, threads=1), vectors(tmp_path / "base-whole", threads=1))
    assert vectors(base, backend="reference") == pytest.approx(vectors(base, threads=1), abs=0.2)


def test_it_generates_nothing(tmp_path: Path) -> None:
    with LLM(write_base(tmp_path / "base", "llama"), max_model_len=64, threads=1) as llm:
        talk: list[Any] = [{"role": "user", "content": "hi"}]
        for ask in (
            lambda: llm.generate("a"),
            lambda: llm.generate("a", SamplingParams(max_tokens=0, prompt_logprobs=1)),
            lambda: list(llm.stream("a")),
            lambda: llm.chat(talk),
            lambda: llm.beam_search("a", BeamSearchParams(2, 2)),
        ):
            with pytest.raises(RequestError, match="embeds texts and generates none: its files have no language-model"):
                ask()
        assert llm.embed("a") and not llm.parts.engine.has_work


def test_a_packed_base_model_stays_one(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama")
    make(str(base), tmp_path / "base.octavo", force=False)
    assert not load_model(tmp_path / "base.octavo").has_head
    assert np.array_equal(vectors(tmp_path / "base.octavo", threads=1), vectors(base, threads=1))


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], None, [], "LlamaModel", ["BertModel"]])
def test_a_head_that_should_be_there_is_missed(tmp_path: Path, architectures: Any) -> None:
    base = write_base(tmp_path / "base", "llama", architectures=architectures)
    with pytest.raises(ModelFileError, match=r"tensor output\.weight is missing, which llama needs"):
        load_model(base)


def test_tied_embeddings_are_a_head(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama", tie_word_embeddings=True)
    assert load_model(base).has_head


def test_it_cannot_draft(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama")
    settings = {"method": "draft_model", "model": str(base), "num_speculative_tokens": 2}
    with pytest.raises(ConfigError, match="the draft model base has no language-model head"):
        LLM(tmp_path / "base-whole", max_model_len=64, threads=1, speculative_config=settings)
