"""Byte-level BPE."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import RequestError, TokenizerError
from octavo.tokenizer import Tokenizer, bpe, pre
from octavo.tokenizer.vocab import Kind
from tests.unit.tokenizer.tiny import byte_level

# Worked out by hand from each family's pattern.
WORDS = {
    "gpt-2": [
        ("Hello world's 123 x", ["Hello", " world", "'s", " 123", " x"]),
        ("I'LL go", ["I", "'", "LL", " go"]),
        ("a  b\n\n c ", ["a", " ", " b", "\n\n", " c", " "]),
        ("x=1;  // no", ["x", "=", "1", ";", " ", " //", " no"]),
    ],
    "smollm": [
        ("a 123b", ["a", " ", "1", "2", "3", "b"]),
        ("v1.5 it's", ["v", "1", ".", "5", " it", "'s"]),
        ("x²", ["x", "²"]),
    ],
    "qwen2": [
        ("I'LL pay 123$", ["I", "'LL", " pay", " ", "1", "2", "3", "$"]),
        ("(a) b\n\n  c", ["(a", ")", " b", "\n\n", " ", " c"]),
        ("end.\n\nNew", ["end", ".\n\n", "New"]),
    ],
    "llama-bpe": [
        ("1234567 we'Re", ["123", "456", "7", " we", "'Re"]),
        ("日本語 café", ["日本語", " café"]),
    ],
    "default": [("$12345.6 a", ["$", "123", "45", ".", "6", " a"]), ("don't", ["don", "'", "t"])],
}


@pytest.mark.parametrize(("name", "text", "words"), [(name, *case) for name, cases in WORDS.items() for case in cases])
def test_words(name: str, text: str, words: list[str]) -> None:
    pieces = bpe.splitter(pre.PRE[name].patterns).pre_tokenize_str(text)
    assert [bpe.token_bytes(piece, Kind.NORMAL).decode() for piece, _ in pieces] == words


@pytest.mark.parametrize("patterns", sorted({each.patterns for each in pre.PRE.values()}))
@settings(max_examples=40, deadline=None)
@given(text=st.text())
def test_no_pre_tokenizer_loses_text(patterns: tuple[str, ...], text: str) -> None:
    pieces = bpe.splitter(patterns).pre_tokenize_str(text)
    assert b"".join(bpe.token_bytes(piece, Kind.NORMAL) for piece, _ in pieces) == text.encode()


def test_merges_apply_in_order_of_rank() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level())
    texts = [tokenizer.token_text(i) for i in tokenizer.encode("hello world hell")]
    assert texts == ["hello", "\u0120world", "\u0120", "hell"]
    # "h e" has the better rank, so "\u0120 hello" cannot start before "hello" is there.
    assert [tokenizer.token_text(i) for i in tokenizer.encode(" hello")] == ["\u0120hello"]


def test_a_whole_word_beats_the_merges_in_llama_3() -> None:
    merges = ("a b", "c d", "ab cd", "b c")
    metadata = byte_level("llama-bpe", merges)
    metadata["tokenizer.ggml.tokens"][256 + 3] = "abc"  # a token that no merge leads to
    del metadata["tokenizer.ggml.merges"][3], metadata["tokenizer.ggml.merges"][2]
    metadata["tokenizer.ggml.tokens"][256 + 2] = "unused"
    tokenizer = Tokenizer.from_gguf(metadata)
    assert [tokenizer.token_text(i) for i in tokenizer.encode("abc", add_special=False)] == ["abc"]
    other = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": "gpt-2"})
    assert [other.token_text(i) for i in other.encode("abc")] == ["ab", "c"]


def test_qwen_composes_characters() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level("qwen2"))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    assert tokenizer.decode(Tokenizer.from_gguf(byte_level()).encode("e\u0301")) == "e\u0301"


def test_special_text_is_a_control_token_only_where_asked_for() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level())
    start, end = tokenizer.bos_id, tokenizer.eos_ids[0]
    assert start is not None
    assert tokenizer.encode("<|im_start|>hello<|im_end|>") == [start, *tokenizer.encode("hello"), end]
    plain = tokenizer.encode("<|im_start|>hello<|im_end|>", parse_special=False)
    assert not tokenizer.special_ids & set(plain)
    assert tokenizer.decode(plain) == "<|im_start|>hello<|im_end|>"
    assert tokenizer.decode([start, *plain[:1], end]) == "<"
    assert tokenizer.decode([start, end], skip_special=False) == "<|im_start|><|im_end|>"


def test_user_defined_tokens_are_always_found() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level())
    ids = tokenizer.encode("hello<tool_call>", parse_special=False)
    assert tokenizer.token_text(ids[-1]) == "<tool_call>"
    assert tokenizer.decode(ids) == "hello<tool_call>"


@pytest.mark.parametrize(
    ("pre", "extra", "first"),
    [("llama-bpe", {}, True), ("gpt-2", {}, False), ("gpt-2", {"add_bos_token": True}, True),
     ("llama-bpe", {"add_bos_token": False}, False), ("llama-bpe", {"bos_token_id": None}, False)],
)  # fmt: skip
def test_beginning_of_text(pre: str, extra: dict[str, Any], first: bool) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level(pre, **extra))
    plain = tokenizer.encode("hello", add_special=False)
    assert tokenizer.encode("hello") == ([tokenizer.bos_id] if first else []) + plain
    assert tokenizer.encode("") == ([tokenizer.bos_id] if first else [])


def test_text_with_its_own_beginning_gets_no_second_one() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level("llama-bpe"))
    assert tokenizer.encode("<|im_start|>hello") == tokenizer.encode("hello")


def test_end_of_text_is_added_where_the_file_says_so() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level(add_eos_token=True))
    assert tokenizer.encode("hello")[-1] == tokenizer.eos_ids[0]


@pytest.mark.parametrize(
    "merges", [["he"], ["h e l"], ["h nothing"], ["no thing"], [""], ["h  e"], [1], "h e", None, []], ids=repr
)
def test_bad_merges_are_named(merges: object) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.merges"):
        Tokenizer.from_gguf(byte_level() | {"tokenizer.ggml.merges": merges})


def test_a_lone_surrogate_is_a_bad_request() -> None:
    with pytest.raises(RequestError, match="character 5") as caught:
        Tokenizer.from_gguf(byte_level()).encode("hello\ud800")
    assert caught.value.field == "prompt"


def test_tokens_outside_the_alphabet_are_plain_text() -> None:
    assert bpe.token_bytes("\u0120\u00e9", Kind.NORMAL) == b" \xe9"
    assert bpe.token_bytes("\u65e5 x", Kind.NORMAL) == "\u65e5 x".encode()
    assert bpe.token_bytes("\u00e9", Kind.CONTROL) == "\u00e9".encode()


def test_the_alphabet_covers_all_bytes() -> None:
    assert sorted(bpe.BYTE_OF.values()) == list(range(256))
    assert bpe.BYTE_OF["\u0120"] == ord(" ") and bpe.BYTE_OF["\u010a"] == ord("\n") and bpe.BYTE_OF["a"] == ord("a")
