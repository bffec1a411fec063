"""SentencePiece BPE."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import TokenizerError
from octavo.tokenizer import Tokenizer, spm
from octavo.tokenizer.vocab import Kind
from tests.unit.tokenizer.tiny import sentencepiece


def slow_sentencepiece(text: str, best_first: list[str]) -> list[str]:
    """The definition, without merge rules: join the adjacent pair that makes the best piece, the leftmost of equals."""
    rank = {piece: i for i, piece in enumerate(best_first)}
    symbols = list(text)
    while True:
        joins = [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in rank]
        if not joins:
            return symbols
        _, i = min(joins)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def texts(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.token_text(i) for i in ids]


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab\u2581", min_size=2, max_size=6), unique=True, max_size=30),
    words=st.lists(st.text("ab ", max_size=30), min_size=1, max_size=8),
)
def test_derived_merges_give_what_sentencepiece_gives(pieces: list[str], words: list[str]) -> None:
    """For any scores, also if a part has a worse score than the whole, or a piece can be split in several ways."""
    metadata = sentencepiece(pieces, add_space_prefix=False, add_bos_token=False)
    tokenizer = Tokenizer.from_gguf(metadata)
    for word in words:
        expected = slow_sentencepiece(word.replace(" ", spm.SPACE), pieces)
        assert texts(tokenizer, tokenizer.encode(word)) == expected


def test_space_prefix() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece())
    assert texts(tokenizer, tokenizer.encode("hello world")) == ["<s>", "\u2581hello", "\u2581world"]
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
    assert tokenizer.decode(tokenizer.encode("  hello")) == "  hello"
    # After a special token the text starts anew.
    assert texts(tokenizer, tokenizer.encode("hello</s>hello")) == ["<s>", "\u2581hello", "</s>", "\u2581hello"]
    assert tokenizer.encode("") == [1]


def test_no_space_prefix() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece(add_space_prefix=False, add_bos_token=False))
    assert texts(tokenizer, tokenizer.encode("hello world")) == ["hello", "\u2581world"]
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"


def test_what_is_no_piece_is_spelled_in_bytes() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece(add_bos_token=False, add_space_prefix=False))
    assert texts(tokenizer, tokenizer.encode("a\u65e5")) == ["a", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(tokenizer.encode("a\u65e5b\n")) == "a\u65e5b\n"
    assert tokenizer.token_bytes(3 + 0xE6) == b"\xe6"


def test_without_byte_tokens_it_is_unknown() -> None:
    metadata = sentencepiece(add_bos_token=False, add_space_prefix=False)
    kinds = np.array(metadata["tokenizer.ggml.token_type"])
    kinds[kinds == Kind.BYTE] = Kind.UNUSED
    tokenizer = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.token_type": kinds})
    assert texts(tokenizer, tokenizer.encode("a\u65e5\u65e5b")) == ["a", "<unk>", "b"]
    assert tokenizer.decode([0]) == ""


def test_plain_text_never_becomes_a_control_token() -> None:
    pieces = ["s>", "<s", "</s", "<", ">", "/"]  # from which <s> and </s> could be merged
    tokenizer = Tokenizer.from_gguf(sentencepiece(pieces))
    assert set(tokenizer.encode("<s></s>")) == {1, 2} | set(tokenizer.encode("", add_special=True))
    ids = tokenizer.encode("<s></s>", add_special=False, parse_special=False)
    assert not {1, 2} & set(ids)
    assert tokenizer.decode(ids) == "<s></s>"


def test_user_defined_tokens_come_first() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece(add_space_prefix=False))
    for parse_special in (True, False):
        ids = tokenizer.encode("a\n\nb", False, parse_special)
        assert texts(tokenizer, ids) == ["a", "\n\n", "b"]


def test_user_defined_tokens_written_with_the_space_mark() -> None:
    metadata = sentencepiece(add_space_prefix=False, add_bos_token=False)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    kinds[tokens.index("\u2581\u2581")] = Kind.USER_DEFINED
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = tokenizer.encode("a   b")
    assert texts(tokenizer, ids) == ["a", "\u2581\u2581", "\u2581", "b"]
    assert tokenizer.decode(ids) == "a   b"


@pytest.mark.parametrize(
    "scores", [None, [], [0.0], "scores", [float("nan")] * 500, [[0.0]]], ids=lambda s: repr(s)[:9]
)
def test_bad_scores_are_named(scores: Any) -> None:
    metadata = sentencepiece() | {"tokenizer.ggml.scores": scores}
    if isinstance(scores, list) and len(scores) == 500:
        metadata["tokenizer.ggml.scores"] = scores[: len(metadata["tokenizer.ggml.tokens"])]
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.scores"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize("text", ["<0x>", "<0xZZ>", "<0x1>", "0x00", "<0x00", "<0x0000>"])
def test_bad_byte_tokens_are_named(text: str) -> None:
    metadata = sentencepiece()
    metadata["tokenizer.ggml.tokens"][3] = text
    with pytest.raises(TokenizerError, match="byte token"):
        Tokenizer.from_gguf(metadata)
