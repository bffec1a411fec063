"""Token ids are checked where they enter: a tokenizer may know more tokens than its model has embeddings for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder

from octavo import LLM, SamplingParams
from octavo.errors import ConfigError, RequestError, TokenizerError
from octavo.processing.inputs import Prompt, RequestMaker
from octavo.sampling_params import StructuredOutputs
from octavo.types import Request
from octavo.weights import open_checkpoint
from octavo.weights.gguf_writer import write_gguf
from tests.tiny import Tiny, tiny_metadata, write_tiny_gguf, write_tiny_hf
from tests.unit.control import VOCAB, engine

ROWS = Tiny().vocab
GREEDY = SamplingParams(temperature=0, max_tokens=8)


def write_larger(folder: Path, tokens: int, **tokenizer: Any) -> Path:
    """A model of 320 embeddings whose tokenizer has more tokens: the others are "extra 320", "extra 321", ..."""
    metadata = tiny_metadata(Tiny(gguf={"vocab_size": ROWS}))
    extra = [f"extra {i}" for i in range(ROWS, tokens)]
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *extra]
    kinds = [np.asarray(metadata["tokenizer.ggml.token_type"]), np.full(len(extra), 4, np.int32)]  # user-defined
    metadata["tokenizer.ggml.token_type"] = np.concatenate(kinds)
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in tokenizer.items()}
    path = folder / f"{tokens}.gguf"
    write_gguf(path, metadata, open_checkpoint(write_tiny_gguf(folder / "tiny.gguf")).tensors)
    return path


def load(path: Path, **more: Any) -> LLM:
    return LLM(path, **({"max_model_len": 128, "num_kv_blocks": 16} | more))


def larger_hf(folder: Path) -> Path:
    """A folder whose end-of-sequence token was added to the tokenizer, but not to the model."""
    write_tiny_hf(folder)
    encoder = Encoder.from_file(str(folder / "tokenizer.json"))
    encoder.add_special_tokens([AddedToken("<|new_end|>")])
    encoder.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|new_end|>"}')
    return folder


# ---------------------------------------------------------------- at loading


@pytest.mark.parametrize("used", [{"eos_token_id": 2999}, {"bos_token_id": 2999, "add_bos_token": True}], ids=str)
def test_a_file_whose_tokenizer_uses_tokens_that_the_model_lacks(tmp_path: Path, used: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"3000 tokens but .* 320: none for token 2999 .*tokenizer=") as error:
        load(write_larger(tmp_path, 3000, **used))
    assert ("ends" if "eos_token_id" in used else "begins") in str(error.value)


def test_a_folder_whose_end_was_added_to_the_tokenizer_alone(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"321 tokens but .* 320: none for token 320 \('<\|new_end\|>'\)"):
        load(larger_hf(tmp_path / "hf"))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    other = larger_hf(tmp_path / "hf") / "tokenizer.json"
    with pytest.raises(TokenizerError, match="321 tokens but"):
        load(write_tiny_gguf(tmp_path / "m.gguf"), tokenizer=other)


def test_a_draft_model_s_tokenizer_is_the_model_s(tmp_path: Path) -> None:
    draft = {"method": "draft_model", "model": str(write_larger(tmp_path, 3000))}
    with pytest.raises(ConfigError, match="must have the vocabulary of"):
        load(write_tiny_gguf(tmp_path / "m.gguf"), speculative_config=draft)


def test_a_smaller_tokenizer_is_usual(tmp_path: Path) -> None:
    """Embeddings are padded to a round number."""
    tokenizer = write_tiny_hf(tmp_path / "hf", Tiny(vocab=300)) / "tokenizer.json"
    with load(write_tiny_gguf(tmp_path / "m.gguf"), tokenizer=tokenizer) as llm:
        assert len(llm.generate("the sun", GREEDY)[0].outputs[0].token_ids) == 8


# ---------------------------------------------------------------- in requests


def test_tokens_that_the_model_lacks_are_refused_only_where_they_are_used(tmp_path: Path) -> None:
    """Gemma 3's text models have a tokenizer with one token more than their embeddings."""
    with load(write_larger(tmp_path, 400)) as llm:

        def answer(**params: Any) -> str:
            greedy = SamplingParams(temperature=0, max_tokens=20, min_tokens=4, **params)
            return llm.generate("the sun", greedy)[0].outputs[0].text

        assert answer(bad_words=("extra 399",)) == answer()
        assert answer(structured_outputs=StructuredOutputs(regex="an extra 399")) == "an extra 399"
        with pytest.raises(RequestError, match="prompt must be token ids of this model, 0 to 319; got 399"):
            llm.generate(["the sun", "an extra 399"], GREEDY)


OUTSIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt": ({}, {}),
    "eos_token_ids": ({"eos_token_ids": (3, VOCAB)}, {}),
    "bad_words": ({"bad_word_ids": ((1,), (2, VOCAB))}, {}),
    "stop_token_ids": ({}, {"stop_token_ids": (-1,)}),
    "allowed_token_ids": ({}, {"allowed_token_ids": (1, VOCAB)}),
    "logit_bias": ({}, {"logit_bias": {1 << 40: 1.0}}),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_engine_trusts_nobody(name: str) -> None:
    """It checks requests that no `RequestMaker` has checked, because backends index memory by these ids."""
    fields, params = OUTSIDE[name]
    prompt = [1, VOCAB] if name == "prompt" else [1, 2]
    small = engine()
    with pytest.raises(RequestError, match=f"{name} must be token ids of this model, 0 to {VOCAB - 1}") as error:
        small.add(Request("r", prompt, SamplingParams(**params), **fields))
    assert error.value.field == name and not small.has_work


def test_a_prompt_is_refused_before_it_is_queued(tmp_path: Path) -> None:
    with load(write_tiny_gguf(tmp_path / "m.gguf")) as llm:
        maker = RequestMaker(llm.parts.tokenizer, ROWS, 64)
        wrong: list[Prompt] = [[1, ROWS], {"prompt_token_ids": [-1]}]
        for prompt in wrong:
            with pytest.raises(RequestError, match="prompt must be token ids of this model, 0 to 319"):
                maker.tokens(prompt)
