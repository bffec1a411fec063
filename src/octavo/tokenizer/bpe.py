"""Byte-level BPE ("gpt2" in GGUF): GPT-2, Llama 3, Qwen, SmolLM.

A pre-tokenizer cuts text into words. Each byte of a word becomes one printable character, and merges are applied in
order of rank. GGUF names the pre-tokenizer in `tokenizer.ggml.pre`; the patterns below are those of each family's
own tokenizer.json (GPT-2's from openai/gpt-2 encoder.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, models, normalizers, pre_tokenizers

from octavo.errors import TokenizerError
from octavo.tokenizer.parts import Parts, make_encoders
from octavo.tokenizer.vocab import KEY, Kind, Vocabulary, string_list

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Contractions in any case, words with one leading symbol, numbers in groups, newlines joined to preceding symbols.
_TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Pre:
    """A pre-tokenizer. patterns: applied in turn, each to the pieces of the previous one.

    whole_words: a word that is a token stays whole, whatever the merges. bos: add a beginning-of-text token, unless
    the file sets this. nfc: normalise the text to NFC first.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    bos: bool = False
    nfc: bool = False


_DIGITS = Pre((r"\p{N}", _GPT2))
_WORDS = Pre((_GPT2,))
_LLAMA3 = Pre((_TIKTOKEN % r"\p{N}{1,3}",), whole_words=True, bos=True)
_QWEN2 = Pre((_TIKTOKEN % r"\p{N}",), nfc=True)
_DEFAULT = Pre((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE: dict[str, Pre] = {
    "default": _DEFAULT,
    "gpt-2": _WORDS,
    "gpt2": _WORDS,
    "phi-2": _WORDS,
    "olmo": _WORDS,
    "mpt": _WORDS,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}


def _byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_characters()


def token_bytes(text: str, kind: int) -> bytes:
    """Returns a token's bytes. Special and added tokens are stored as plain text."""
    if kind == Kind.NORMAL:
        try:
            return bytes(map(BYTE_OF.__getitem__, text))
        except KeyError:  # outside the alphabet: an added token in plain text that lacks the mark of one
            pass
    return text.encode("utf-8", "surrogatepass")


def pre_tokenizer(name: Any) -> Pre:
    """Returns the pre-tokenizer called `name` in GGUF. Warns about an unknown name and returns "default"."""
    if isinstance(name, str) and name in PRE:
        return PRE[name]
    warnings.warn(f"{KEY}pre {name!r} is not known (known: {', '.join(PRE)}), 'default' is used", stacklevel=2)
    return _DEFAULT


def read(metadata: Mapping[str, Any], vocab: Vocabulary) -> Parts:
    """The tokenizer of a GGUF file of this family. Raises TokenizerError for merges that do not fit the vocabulary."""
    pre = pre_tokenizer(metadata.get(KEY + "pre", "default"))
    encoders = make_encoders(
        vocab,
        _model(vocab, string_list(metadata, "merges"), pre.whole_words),
        normalizers.NFC() if pre.nfc else None,
        splitter(pre.patterns),
    )
    return Parts(vocab, encoders, token_bytes, *vocab.surround(metadata, bos=pre.bos))


def _model(vocab: Vocabulary, lines: list[str], whole_words: bool) -> models.BPE:
    merges: list[Any] = [tuple(line.split(" ")) for line in lines]
    if set(map(len, merges)) - {2}:
        bad = next(line for line, merge in zip(lines, merges, strict=True) if len(merge) != 2)
        raise TokenizerError(f"{KEY}merges: {bad!r} is not two tokens with a space between")
    try:
        return models.BPE(vocab.ids(), merges, ignore_merges=whole_words)
    except Exception as error:  # the library raises plain Exception: a merge of tokens that do not exist
        raise TokenizerError(f"{KEY}merges: {error}") from error


def splitter(patterns: tuple[str, ...]) -> pre_tokenizers.PreTokenizer:
    """A pre-tokenizer that cuts text into words and writes their bytes in GPT-2's alphabet."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, to_bytes])
