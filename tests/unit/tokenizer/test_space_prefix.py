"""Tokenizers that put a space before a text (SentencePiece: Llama 2, Mistral 7B, TinyLlama), as GGUF and as a folder.

Expected values: sentencepiece, llama.cpp and the incremental decoder of `tokenizers` (tests/data/tokenizers/spm.json).
"""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Encoder
from tokenizers import models, pre_tokenizers

from octavo.processing.processor import OutputProcessor
from octavo.sampling_params import SamplingParams
from octavo.tokenizer import Detokenizer, Tokenizer, TokenTexts
from octavo.tokenizer.parts import encode, without_prefix
from octavo.types import Request, SequenceDelta, TokenLogprob
from tests.tiny import spm_data, spm_metadata, write_spm_tokenizer
from tests.unit.tokenizer.tiny import byte_level

DATA = spm_data()


@pytest.fixture(scope="module", params=["gguf", "legacy", "metaspace"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "gguf":
        return Tokenizer.from_gguf(spm_metadata())
    folder = tmp_path_factory.mktemp("tokenizer")
    write_spm_tokenizer(folder, legacy=request.param == "legacy")
    return Tokenizer.from_file(folder)


def test_hard_texts(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> None:
    newer = DATA["metaspace"] if "metaspace" in request.node.name else {}
    for i, text in enumerate(DATA["texts"]):
        assert tokenizer.encode(text) == [1, *newer.get(str(i), DATA["ids"][i])], text


def test_a_token_after_a_prompt_keeps_its_space(tokenizer: Tokenizer) -> None:
    for case in DATA["stream"]:
        words = Detokenizer(TokenTexts(tokenizer), case["prompt"])
        assert [words.add_one(token) for token in case["ids"]] == case["pieces"]
        assert tokenizer.decode(case["ids"], after=case["prompt"]) == "".join(case["pieces"])
    assert tokenizer.decode(tokenizer.encode("Once upon a")) == "Once upon a"


def test_an_answer_keeps_its_first_space(tokenizer: Tokenizer) -> None:
    prompt, (time,) = tokenizer.encode("Once upon a"), tokenizer.encode("time", add_special=False)
    assert tokenizer.token_text(time) == "\u2581time"
    processor = OutputProcessor(tokenizer)
    output = processor.add(Request("r", prompt, SamplingParams(max_tokens=1, logprobs=0)))
    processor.process([SequenceDelta("r", 0, [time], "length", logprobs=[TokenLogprob(time, -1.0, 1, [])])])
    assert output.outputs[0].text == " time"
    assert output.outputs[0].logprobs is not None
    assert output.outputs[0].logprobs[0][time].decoded_token == " time"


def test_a_text_inside_another_is_spelled_without_a_space(tokenizer: Tokenizer) -> None:
    for text in [*DATA["texts"], "ok", "a", "</s>", " x", ""]:
        ids = tokenizer.spell(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode(), text
        assert not tokenizer.special_ids & set(ids)
    assert [tokenizer.token_text(i) for i in tokenizer.spell(" time")] == ["\u2581time"]


def test_a_prefix_of_byte_level_tokenizers_goes_too() -> None:
    """ByteLevel has a switch for it (`add_prefix_space`), alone or in a sequence."""
    plain = Encoder(models.BPE({"\u0120": 0, "a": 1}, []))
    for wrap in (lambda step: step, lambda step: pre_tokenizers.Sequence([step])):
        plain.pre_tokenizer = wrap(pre_tokenizers.ByteLevel(add_prefix_space=True))
        assert encode(plain, "a") == [0, 1] and encode(without_prefix(plain), "a") == [1]
        plain.pre_tokenizer = wrap(pre_tokenizers.ByteLevel(add_prefix_space=False))
        assert without_prefix(plain) is plain, "nothing is copied"


def test_a_character_that_the_prompt_begins_is_shown_whole() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level())
    first, second = tokenizer.encode("\u00e9")
    words = Detokenizer(TokenTexts(tokenizer), [*tokenizer.encode("hello"), first])
    assert words.add_one(second) == "\u00e9"
    assert tokenizer.token_name(first) == "bytes:\\xc3" and tokenizer.token_name(second) == "bytes:\\xa9"
