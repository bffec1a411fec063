"""Byte-level BPE ("gpt2" in GGUF): GPT-2, Llama 3, Qwen, SmolLM.

A pre-tokenizer cuts text into words. Each byte of a word becomes one printable character, and merges are applied in
order of rank. GGUF names the pre-tokenizer: see `pre`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, models, normalizers, pre_tokenizers

from octavo.errors import TokenizerError
from octavo.tokenizer.parts import Parts, make_encoders
from octavo.tokenizer.pre import Pre, pre_tokenizer
from octavo.tokenizer.vocab import KEY, Kind, Vocabulary, string_list

log = logging.getLogger(__name__)


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


def read(metadata: Mapping[str, Any], vocab: Vocabulary, name: str | None = None) -> Parts:
    """The tokenizer of a GGUF file of this family. name: a pre-tokenizer to use instead of the file's.

    Raises TokenizerError for an unknown pre-tokenizer, and for merges that do not fit the vocabulary.
    """
    pre = _pre_tokenizer(metadata) if name is None else pre_tokenizer(name, "tokenizer_pre")
    encoders = make_encoders(
        vocab,
        _model(vocab, string_list(metadata, "merges"), pre.whole_words),
        normalizers.NFC() if pre.nfc else None,
        splitter(pre.patterns),
    )
    return Parts(vocab, encoders, token_bytes, *vocab.surround(metadata, bos=pre.bos))


def _pre_tokenizer(metadata: Mapping[str, Any]) -> Pre:
    if KEY + "pre" not in metadata:
        log.warning("the model file has no %spre: 'default' is used; if words look wrong, set tokenizer_pre", KEY)
    return pre_tokenizer(metadata.get(KEY + "pre", "default"), KEY + "pre")


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
