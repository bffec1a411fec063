"""The vocabulary of a GGUF file: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import TokenizerError
from octavo.tokenizer import Tokenizer
from octavo.tokenizer.vocab import Kind, read_vocabulary
from tests.unit.tokenizer.tiny import byte_level, sentencepiece


def test_vocabulary() -> None:
    metadata = byte_level()
    vocab = read_vocabulary(metadata, {})
    assert vocab.tokens == metadata["tokenizer.ggml.tokens"] and vocab.tokens is not metadata["tokenizer.ggml.tokens"]
    control = vocab.ids_of(Kind.CONTROL)
    assert [vocab.tokens[i] for i in control] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert vocab.bos_id == control[1]
    assert vocab.unknown_id is None


def test_end_tokens() -> None:
    """First the file's end token, then control tokens whose names mean the end of a turn or a text."""
    end, text = (read_vocabulary(byte_level(), {}).tokens.index(t) for t in ("<|im_end|>", "<|endoftext|>"))
    assert Tokenizer.from_gguf(byte_level()).eos_ids == (end, text)
    assert Tokenizer.from_gguf(byte_level(eos_token_id=text)).eos_ids == (text, end)
    assert Tokenizer.from_gguf(byte_level(eos_token_id=5, eot_token_id=7)).eos_ids == (5, 7, text, end)
    assert Tokenizer.from_gguf(byte_level(eos_token_id=None)).eos_ids == (text, end)
    assert Tokenizer.from_gguf(byte_level(token_type=None)).eos_ids == (end,)  # a name alone is not enough


def test_arrays_of_numpy_are_welcome() -> None:
    metadata = byte_level()
    metadata["tokenizer.ggml.token_type"] = np.array(metadata["tokenizer.ggml.token_type"], np.int32)
    assert len(Tokenizer.from_gguf(metadata).special_ids) == 3


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tokenizer.ggml.model", [None, "bert", 3, ["gpt2"], {}]),
        ("tokenizer.ggml.tokens", [None, [], "abc", 3, [1, 2], [b"a"], {}]),
        ("tokenizer.ggml.token_type", ["abc", [1], [[1]], [1.5] * 272, 3]),
        ("tokenizer.ggml.bos_token_id", [10**9, -5, 1.5, "1", True, [1]]),
        ("tokenizer.ggml.eos_token_id", [272, "x"]),
        ("tokenizer.ggml.unknown_token_id", [99999]),
        ("tokenizer.ggml.add_bos_token", [1, "true", None.__class__]),
        ("tokenizer.ggml.add_eos_token", ["no"]),
        ("tokenizer.chat_template", [3, ["x"]]),
    ],
)
def test_bad_values_are_named(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(TokenizerError, match=key.replace(".", r"\.")):
            Tokenizer.from_gguf(byte_level() | {key: value})
    with pytest.raises(TokenizerError, match="add_space_prefix"):
        Tokenizer.from_gguf(sentencepiece(add_space_prefix="yes"))


@pytest.mark.parametrize("none", [-1, 0xFFFFFFFF])
def test_ids_that_mean_none(none: int) -> None:
    assert Tokenizer.from_gguf(byte_level("llama-bpe", bos_token_id=none)).bos_id is None


def test_chat_template() -> None:
    assert Tokenizer.from_gguf(byte_level()).chat_template is None
    assert Tokenizer.from_gguf(byte_level() | {"tokenizer.chat_template": ""}).chat_template is None
    assert Tokenizer.from_gguf(byte_level() | {"tokenizer.chat_template": "x"}).chat_template == "x"


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), base=st.sampled_from([byte_level(), sentencepiece()]))
def test_junk_gives_a_tokenizer_or_a_tokenizer_error(data: st.DataObject, base: dict[str, Any]) -> None:
    """Whatever values a file has, the only error is TokenizerError. An accepted tokenizer encodes and decodes."""
    keys = [*base, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix", "tokenizer.chat_template"]
    changed = data.draw(st.dictionaries(st.sampled_from(keys), JUNK, min_size=1, max_size=2))
    try:
        tokenizer = Tokenizer.from_gguf(base | changed)
    except TokenizerError:
        return
    tokenizer.decode(tokenizer.encode("hello <s> \u65e5"))
