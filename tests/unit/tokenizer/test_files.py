"""Tokenizers from Hugging Face files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Encoder

from octavo.errors import TokenizerError
from octavo.tokenizer import Tokenizer
from octavo.tokenizer.pre import PRE
from tests.unit.tokenizer.tiny import MERGES, PIECES, SPECIAL, byte_level, sentencepiece

TEXTS = (
    "hello world",
    " hello 12 <|im_start|>hello<|im_end|>",
    "<tool_call>é 🙂\n",
    "",
    "<s>hello</s> world\n\n\u65e5",
)


def byte_level_file(folder: Path) -> Path:
    """The same tokenizer as tiny.byte_level("llama-bpe"), as transformers would write it."""
    metadata = byte_level("llama-bpe")
    ids = {text: i for i, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    encoder = Encoder(models.BPE(ids, [(left, right) for left, right in map(str.split, MERGES)], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PRE["llama-bpe"].patterns[0]), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    encoder.add_tokens([AddedToken("<tool_call>", normalized=False)])
    start = "<|im_start|>"
    encoder.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, ids[start])])
    encoder.enable_truncation(3)  # left over from training: must not cut prompts
    encoder.enable_padding(length=50)
    encoder.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"bos_token": start, "eos_token": {"content": "<|im_end|>"}})
    return folder


def sentencepiece_file(folder: Path) -> Path:
    """The same tokenizer as tiny.sentencepiece(), as transformers would write it."""
    tokens = sentencepiece()["tokenizer.ggml.tokens"]
    merges = [(piece[:cut], piece[cut:]) for piece in PIECES for cut in range(1, len(piece))]
    known = set(tokens)
    pairs = [pair for pair in merges if set(pair) <= known]
    ids = {text: i for i, text in enumerate(tokens)}
    encoder = Encoder(models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    encoder.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    encoder.decoder = decoders.Sequence(steps)
    encoder.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    encoder.add_tokens([AddedToken("\n\n", normalized=False)])
    encoder.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    return folder


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("add_special", [True, False])
@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_same_as_from_gguf(tmp_path: Path, text: str, add_special: bool, parse_special: bool) -> None:
    for write_file, metadata in ((byte_level_file, byte_level("llama-bpe")), (sentencepiece_file, sentencepiece())):
        ours, theirs = Tokenizer.from_file(write_file(tmp_path)), Tokenizer.from_gguf(metadata)
        ids = ours.encode(text, add_special, parse_special)
        assert ids == theirs.encode(text, add_special, parse_special)
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip)
        assert (ours.vocab_size, ours.bos_id, ours.special_ids) == (
            theirs.vocab_size,
            theirs.bos_id,
            theirs.special_ids,
        )
        assert [ours.token_bytes(i) for i in range(300)] == [theirs.token_bytes(i) for i in range(300)]


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(byte_level_file(tmp_path) / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("hello world " * 50)) == "hello world " * 50


def test_end_tokens(tmp_path: Path) -> None:
    byte_level_file(tmp_path)
    text, start, end = (Tokenizer.from_file(tmp_path).encode(t, add_special=False)[0] for t in SPECIAL)
    assert Tokenizer.from_file(tmp_path).eos_ids == (end, text)
    write(tmp_path, "generation_config.json", {"eos_token_id": [start, end]})
    assert Tokenizer.from_file(tmp_path).eos_ids == (end, start, text)
    write(tmp_path, "generation_config.json", {"eos_token_id": 10**9})
    assert Tokenizer.from_file(tmp_path).eos_ids == (end, text)


def test_add_bos_token_overrules_the_file(tmp_path: Path) -> None:
    byte_level_file(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", config | {"add_bos_token": False})
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_special=False)


def test_chat_template(tmp_path: Path) -> None:
    byte_level_file(tmp_path)
    assert Tokenizer.from_file(tmp_path).chat_template is None
    write(tmp_path, "tokenizer_config.json", {"chat_template": "from config"})
    assert Tokenizer.from_file(tmp_path).chat_template == "from config"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert Tokenizer.from_file(tmp_path).chat_template == "usual"
    (tmp_path / "chat_template.jinja").write_text("from file", encoding="utf-8")
    assert Tokenizer.from_file(tmp_path).chat_template == "from file"


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: No such file"):
        Tokenizer.from_file(tmp_path)
    whole = (byte_level_file(tmp_path) / "tokenizer.json").read_bytes()
    for content in (b"", b"{}", b"[]", b"\xff\xfe", whole[:-10], whole[: len(whole) // 2]):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(whole)
    for content in (b"{", b"[]", b"\xff", b"[" * 99999):
        (tmp_path / "tokenizer_config.json").write_bytes(content)
        with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
            Tokenizer.from_file(tmp_path)


def test_other_families_are_refused(tmp_path: Path) -> None:
    encoder = Encoder(models.WordPiece({"[UNK]": 0, "a": 1}))
    encoder.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="not supported"):
        Tokenizer.from_file(tmp_path)
    encoder.decoder = decoders.WordPiece()
    encoder.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="WordPiece is not supported"):
        Tokenizer.from_file(tmp_path)
