"""The tokenizer as scripts for transformers use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, RequestError, SamplingParams, TokensPrompt, unsupported
from octavo.processing.hf_tokenizer import ENDLESS, HFTokenizer
from octavo.tokenizer import Tokenizer
from tests.tiny import CHAT_TEMPLATE, SPECIALS, Tiny, write_tiny_gguf, write_tiny_hf

FEW = SamplingParams(temperature=0, max_tokens=4)
HI = [{"role": "user", "content": "hi"}]
HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, max_model_len=128, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def tokenizer(llm: LLM) -> HFTokenizer:
    return llm.get_tokenizer()


def test_the_tokenizers_methods_are_those_of_transformers(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode("the rate", add_special_tokens=False)
    assert tokenizer("the rate").input_ids == tokenizer("the rate")["input_ids"] == ids
    assert tokenizer(["a", "the rate"]).input_ids[1] == ids
    assert tokenizer("the rate", truncation=True, max_length=2).attention_mask == [1, 1]
    assert tokenizer.decode(ids) == "the rate" and tokenizer.batch_decode([ids, ids[:1]])[0] == "the rate"
    end = tokenizer.eos_token_id
    assert end is not None and tokenizer.eos_token == "<|im_end|>" == tokenizer.decode(end)
    assert tokenizer.decode([*ids, end], skip_special_tokens=True) == "the rate"
    assert tokenizer.decode([*ids, end]) == "the rate<|im_end|>"
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize("the rate")) == ids
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == end and end in tokenizer.all_special_ids
    assert len(tokenizer) == tokenizer.vocab_size == 320 and tokenizer.chat_template == CHAT_TEMPLATE


def test_attributes_that_scripts_read(tokenizer: HFTokenizer, path: Path, tmp_path: Path) -> None:
    assert (tokenizer.name_or_path, tokenizer.model_max_length) == (str(path), 128)
    assert tokenizer.bos_token == tokenizer.convert_ids_to_tokens(tokenizer.bos_token_id or 0) == "<|endoftext|>"
    assert tokenizer.unk_token is tokenizer.unk_token_id is tokenizer.mask_token is tokenizer.cls_token_id is None
    assert tokenizer.special_tokens_map == {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    assert tokenizer.additional_special_tokens == ["<|im_start|>"]
    assert set(tokenizer.get_added_vocab()) == set(tokenizer.all_special_tokens) == set(SPECIALS)
    assert (tokenizer.padding_side, tokenizer.add_bos_token, tokenizer.is_fast) == ("right", False, True)
    assert tokenizer.vocab == tokenizer.get_vocab() and len(tokenizer.vocab) == 320
    assert tokenizer.get_chat_template() == CHAT_TEMPLATE and tokenizer.get_chat_template("x") == "x"
    llama = HFTokenizer(Tokenizer.from_file(write_tiny_hf(tmp_path / "spm", Tiny(sentencepiece=True, vocab=400))))
    assert (llama.unk_token, llama.unk_token_id, llama.add_bos_token) == ("<unk>", 0, True)
    assert llama.model_max_length == ENDLESS and llama.convert_tokens_to_ids(["\u2581the", "no such"])[1] == 0


def test_texts_and_ids(tokenizer: HFTokenizer) -> None:
    ids = tokenizer.encode("the rate")
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize("the rate")) == "the rate"
    assert tokenizer.decode(np.array(ids)) == "the rate" == tokenizer.decode(iter(ids))
    assert tokenizer.decode(np.int64(ids[0])) == tokenizer.decode(ids[:1]) == tokenizer.decode(ids[0])
    end = tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens([*ids, end], skip_special_tokens=True) == tokenizer.tokenize("the rate")
    assert tokenizer.encode("w" * 200, truncation="longest_first") == tokenizer.encode("w" * 200)[:128]
    assert tokenizer.convert_tokens_to_ids("no such token") is None


BAD: dict[str, tuple[Callable[[HFTokenizer], Any], str]] = {
    "encode": (lambda t: t.encode(5), "^text must be a string; got int"),
    "encode-list": (lambda t: t.encode(["a"]), "^text must be a string; got list"),
    "call": (lambda t: t(None), "^text must be a string; got NoneType"),
    "call-list": (lambda t: t(["a", 5]), "^text must be a string; got int"),
    "tokenize": (lambda t: t.tokenize(5), "^text must be a string; got int"),
    "decode": (lambda t: t.decode("ab"), "^token_ids must be an id or a list of ids; got 'a'"),
    "decode-none": (lambda t: t.decode(None), "^token_ids must be an id or a list of ids; got None"),
    "decode-nested": (lambda t: t.decode([[1]]), r"^token_ids must be an id or a list of ids; got \[1\]"),
    "batch": (lambda t: t.batch_decode(5), "^sequences must be lists of token ids; got int"),
    "to-tokens": (lambda t: t.convert_ids_to_tokens([5, 999]), "^token ids are 0 to 319; got 999"),
    "to-ids": (lambda t: t.convert_tokens_to_ids(5), "^tokens must be a token's text, or a list; got int"),
    "truncation": (lambda t: t("a", truncation="x"), "^truncation must be True or False; got 'x'"),
    "max_length": (lambda t: t("a", truncation=True, max_length=-1), "^max_length must be a number of tokens; got -1"),
    "chat": (lambda t: t.apply_chat_template(5), "^conversation must be a list of messages .*; got int"),
    "chat-empty": (lambda t: t.apply_chat_template([]), "^conversation: at least one message is needed"),
    "chat-second": (lambda t: t.apply_chat_template([HI, 5]), r"^conversation\[1\]: a list of messages is needed"),
    "chat-tools": (
        lambda t: t.apply_chat_template(HI, tools=[print]),
        r"^tools\[0\] must be an object in OpenAI's form",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_clear_error(tokenizer: HFTokenizer, name: str) -> None:
    call, problem = BAD[name]
    with pytest.raises(RequestError, match=problem):
        call(tokenizer)


@pytest.mark.parametrize(
    ("call", "reasons"),
    [
        pytest.param(lambda t, **more: t("a", **more), unsupported.TOKENIZE, id="call"),
        pytest.param(lambda t, **more: t.encode("a", **more), unsupported.TOKENIZE, id="encode"),
        pytest.param(lambda t, **more: t.decode([5], **more), unsupported.DECODE, id="decode"),
        pytest.param(lambda t, **more: t.batch_decode([[5]], **more), unsupported.DECODE, id="batch_decode"),
        pytest.param(lambda t, **more: t.apply_chat_template(HI, **more), unsupported.TEMPLATE, id="template"),
    ],
)
def test_further_arguments_may_ask_for_nothing(
    tokenizer: HFTokenizer, call: Callable[..., Any], reasons: unsupported.Reasons
) -> None:
    for name, (reason, neutral) in reasons.items():
        for value in (None, *neutral):
            assert call(tokenizer, **{name: value}) == call(tokenizer)
        with pytest.raises(RequestError, match=f"^{name} is not supported: ") as caught:
            call(tokenizer, **{name: "pt"})
        assert reason in str(caught.value)


def test_several_chats_are_rendered_one_by_one(tokenizer: HFTokenizer) -> None:
    texts = tokenizer.apply_chat_template([HI, HELLO], tokenize=False)
    assert texts == [tokenizer.apply_chat_template(chat, tokenize=False) for chat in (HI, HELLO)]
    ids = tokenizer.apply_chat_template([HI, HELLO], add_generation_prompt=True)
    assert ids == [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in (HI, HELLO)]
    both = tokenizer.apply_chat_template([HI, HELLO], return_dict=True)
    assert [len(mask) for mask in both.attention_mask] == [len(each) for each in both.input_ids]
    assert tokenizer.apply_chat_template(HI, truncation=True, max_length=3) == ids[0][:3]
    going = tokenizer.apply_chat_template(HELLO, tokenize=False, continue_final_message=True)
    assert going.endswith("assistant\nwell")


def test_the_tokenizer_renders_chats(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = llm.get_tokenizer()
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == tokenizer.encode(shown, add_special_tokens=False)
    assert llm.generate(TokensPrompt(prompt_token_ids=ids), FEW)[0].outputs[0].text == (
        llm.chat(messages, FEW)[0].outputs[0].text  # type: ignore[arg-type]
    )
    short = tokenizer.apply_chat_template(messages, return_dict=True)
    assert ids[: len(short.input_ids)] == short.input_ids != ids
