"""Pre-tokenizers by name: hard texts in tokens, as llama.cpp gives them.

The vocabulary of `pre.json` has merges across boundaries that a pre-tokenizer could make, so a wrong boundary gives
other tokens. Where llama.cpp only approximates a model's pattern, `own` has what the pattern itself gives: split by
Python's `regex` module, then merged by definition. Such are the case of letters beyond ASCII (tekken, gpt-4o), spaces
beyond ASCII (deepseek) and composed characters (qwen2).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import TokenizerError
from octavo.tokenizer import Tokenizer, pre
from octavo.tokenizer.bpe import BYTE_OF
from octavo.tokenizer.vocab import Kind
from tests.unit.tokenizer.tiny import byte_level, sentencepiece, with_keys

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data" / "tokenizers" / "pre.json").read_text(encoding="utf-8")
)
OURS = {"gpt2"}  # not a name of llama.cpp's


@cache
def tokens() -> list[str]:
    merged = dict.fromkeys(merge.replace(" ", "") for merge in DATA["merges"])
    return [*dict.fromkeys([*BYTE_OF, *merged]), *DATA["tokens"], *DATA["special"]]


def tokenizer(name: str, override: str | None = None, **extra: Any) -> Tokenizer:
    count = len(tokens())
    keys = {
        "model": "gpt2",
        "pre": name,
        "tokens": tokens(),
        "merges": DATA["merges"],
        "token_type": [Kind.NORMAL] * (count - 2) + [Kind.CONTROL] * 2,
        "bos_token_id": count - 2,
        "eos_token_id": count - 1,
    }
    return Tokenizer.from_gguf(with_keys(keys, extra), override)


def expected(name: str) -> list[list[int]]:
    """Stored as the differences from GPT-2's."""
    name = DATA["same"].get(name, name)
    base = dict(enumerate(DATA["ids"]["gpt-2"]))
    if name != "gpt-2":
        base |= {int(text): ids for text, ids in DATA["ids"][name].items()}
    return list((base | {int(text): ids for text, ids in DATA["own"].get(name, {}).items()}).values())


@pytest.mark.parametrize("name", sorted(pre.PRE.keys() - OURS))
def test_hard_texts(name: str) -> None:
    made = tokenizer(name)
    wanted = expected(name)
    # Names that are one to llama.cpp differ here only in whether they compose characters.
    composes = pre.PRE[name].nfc == pre.PRE[DATA["same"].get(name, name)].nfc
    for text, ids in zip(DATA["texts"], wanted, strict=True):
        if composes or text.isascii():
            assert made.encode(text, add_special=False, parse_special=False) == ids, text
    assert (made.encode("a")[0] == made.bos_id) == (name in DATA["bos"])


def test_every_name_has_its_own_answer_or_shares_one() -> None:
    assert pre.PRE.keys() - OURS == DATA["ids"].keys() | DATA["same"].keys()


@pytest.mark.parametrize("name", ["llama-bpe", "smaug-bpe", "falcon3", "pixtral", "dbrx", "tekken"])
def test_a_space_and_a_bracket_are_one_token(name: str) -> None:
    """The public report: " (" is one token of Llama 3's vocabulary, but not with the default pattern."""
    merged = tokens().index("\u0120(")
    assert tokenizer(name).encode(" (", add_special=False) == [merged]
    assert tokenizer("default").encode(" (", add_special=False) != [merged]


def test_an_unknown_name_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer("novel")
    for part in ("tokenizer.ggml.pre", "'novel'", "--tokenizer", "--tokenizer-pre", "llama-bpe", "tekken"):
        assert part in str(caught.value)
    for bad in (3, ["gpt-2"], ""):
        with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre"):
            tokenizer(bad)  # type: ignore[arg-type]


def test_a_name_given_by_the_user_replaces_the_files() -> None:
    for name in ("novel", "gpt-2"):
        assert tokenizer(name, "llama-bpe").encode("1234 x") == tokenizer("llama-bpe").encode("1234 x")
    with pytest.raises(TokenizerError, match="tokenizer_pre: the pre-tokenizer 'novel'"):
        tokenizer("gpt-2", "novel")
    with pytest.raises(TokenizerError, match=r"tokenizer_pre 'gpt-2'.*SentencePiece"):
        Tokenizer.from_gguf(sentencepiece(), "gpt-2")


def test_a_file_without_the_key_gets_the_default_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = Tokenizer.from_gguf(byte_level(pre=None))  # type: ignore[arg-type]
    assert "tokenizer_pre" in caplog.text
    assert made.encode("hello 1111") == Tokenizer.from_gguf(byte_level("default")).encode("hello 1111")
