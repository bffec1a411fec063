"""Text that arrives token by token."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from octavo.tokenizer import Detokenizer, Tokenizer, TokenTexts
from octavo.weights.gguf import open_gguf
from tests.models import model_path
from tests.unit.tokenizer.tiny import byte_level, sentencepiece

TINY = {
    "bytes": Tokenizer.from_gguf(byte_level()),
    "sentencepiece": Tokenizer.from_gguf(sentencepiece()),
    "sentencepiece without prefix": Tokenizer.from_gguf(sentencepiece(add_space_prefix=False)),
}
REAL = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-1.5b")
ALL = (*TINY, *REAL)


@pytest.fixture(scope="module", params=ALL)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param in TINY:
        return TINY[request.param]
    with open_gguf(model_path(request.param)) as file:
        return Tokenizer.from_gguf(file.metadata)


def pieces_of(tokenizer: Tokenizer, groups: Sequence[Sequence[int]], skip: bool, continuation: bool) -> list[str]:
    detokenizer = Detokenizer(TokenTexts(tokenizer, skip), [] if continuation else None)
    return [*(detokenizer.add(group) for group in groups), detokenizer.flush()]


def one_by_one(tokenizer: Tokenizer, ids: Sequence[int], skip: bool, continuation: bool) -> list[str]:
    """The pieces of decoding token by token, for the second time: then the tokens' texts are cached."""
    texts = TokenTexts(tokenizer, skip)
    for _ in range(2):
        detokenizer = Detokenizer(texts, [] if continuation else None)
        pieces = [*(detokenizer.add_one(i) for i in ids), detokenizer.flush()]
    return pieces


@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans(), continuation=st.booleans())
def test_pieces_add_up(tokenizer: Tokenizer, data: st.DataObject, skip: bool, continuation: bool) -> None:
    """For any ids: also broken characters, control tokens, and ids past the vocabulary."""
    first = st.integers(0, min(600, tokenizer.vocab_size))  # the range of the byte tokens in all three
    ids = st.lists(first | st.integers(0, tokenizer.vocab_size + 10), max_size=8)
    groups = data.draw(st.lists(ids, max_size=8))
    flat = [i for group in groups for i in group]
    whole = tokenizer.decode(flat, skip, [] if continuation else None)
    assert "".join(pieces_of(tokenizer, groups, skip, continuation)) == whole
    assert one_by_one(tokenizer, flat, skip, continuation) == pieces_of(
        tokenizer, [[i] for i in flat], skip, continuation
    )
    raw = b"".join(tokenizer.token_bytes(i) for i in flat if not (skip and i in tokenizer.special_ids))
    text = raw.decode("utf-8", "replace")
    assert whole == (text.removeprefix(" ") if tokenizer.space_prefix and not continuation else text)


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_text_survives_and_is_never_half_shown(tokenizer: Tokenizer, text: str) -> None:
    assume(set(text.encode()) <= known_bytes(tokenizer))
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    shown = pieces_of(tokenizer, [[i] for i in ids], True, False)
    assert unicodedata.normalize("NFC", "".join(shown)) == unicodedata.normalize("NFC", text)  # Qwen composes
    assert shown[-1] == "", "something complete was kept back"


@cache
def known_bytes(tokenizer: Tokenizer) -> set[int]:
    """The bytes that have a token. SmolLM2 has none for 21 bytes that are rare or never occur in UTF-8."""
    found = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    return {byte for byte in range(256) if bytes([byte]) in found}


def test_half_a_character_waits_for_the_rest(tokenizer: Tokenizer) -> None:
    smile = [find_byte(tokenizer, byte) for byte in "🙂".encode()]
    detokenizer = Detokenizer(TokenTexts(tokenizer))
    assert [detokenizer.add([i]) for i in smile] == ["", "", "", "🙂"]
    assert detokenizer.add(smile[:2]) == "" and detokenizer.flush() == "\ufffd"


def test_a_broken_character_is_shown_as_soon_as_it_is_known_to_be(tokenizer: Tokenizer) -> None:
    lead, letter = find_byte(tokenizer, 0xF0), find_byte(tokenizer, ord("a"))
    detokenizer = Detokenizer(TokenTexts(tokenizer))
    assert [detokenizer.add([lead]), detokenizer.add([letter]), detokenizer.flush()] == ["", "\ufffda", ""]


def find_byte(tokenizer: Tokenizer, byte: int) -> int:
    return next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte]))


def test_leading_space() -> None:
    tokenizer = TINY["sentencepiece"]
    ids = tokenizer.encode("hello world", add_special=False)
    assert pieces_of(tokenizer, [[i] for i in ids], True, False) == ["hello", " world", ""]
    assert pieces_of(tokenizer, [[i] for i in ids], True, True) == [" hello", " world", ""]
    # A control token that is not shown does not count as the beginning.
    assert tokenizer.decode([1, *ids]) == "hello world"
    assert tokenizer.decode([1, *ids], skip_special=False) == "<s> hello world"


def test_ids_of_no_token_are_no_text() -> None:
    tokenizer = TINY["bytes"]
    assert tokenizer.decode([tokenizer.vocab_size, -1, 10**9]) == ""
    assert tokenizer.token_bytes(-1) == b""


def test_work_does_not_grow_with_the_text() -> None:
    """Each token takes one look-up, and only the bytes of an unfinished character are kept."""

    class Counting:
        space_prefix = False
        calls = 0

        def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
            self.calls += 1
            return b"\xe6" if token_id else b"a"

    source = Counting()
    texts = TokenTexts(source)
    detokenizer = Detokenizer(texts)
    for step in range(1, 2000):
        detokenizer.add([step % 2])
        assert source.calls == step
    source.calls = 0
    for _ in range(1000):
        assert Detokenizer(texts).add_one(0) == "a"
    assert source.calls == 1, "a token's text is looked up once for all sequences"


def test_real_tokens_read_as_in_the_library(tokenizer: Tokenizer) -> None:
    """Against the decoders of the `tokenizers` library, as an independent source."""
    byte_level = tokenizer.token_text(tokenizer.encode(" ", add_special=False)[0]) == "\u0120"
    spaces = decoders.Replace("\u2581", " ")
    oracle = decoders.ByteLevel() if byte_level else decoders.Sequence([spaces, decoders.ByteFallback()])
    for start in range(0, tokenizer.vocab_size, 97):
        ids = [i for i in range(start, min(start + 3, tokenizer.vocab_size)) if i not in tokenizer.special_ids]
        texts = [tokenizer.token_text(i) for i in ids]
        if any(text.startswith(("<0x", "[PAD")) for text in texts):
            continue  # the library writes each broken byte as U+FFFD, not each broken character
        assert tokenizer.decode(ids, after=[]) == oracle.decode(texts)
