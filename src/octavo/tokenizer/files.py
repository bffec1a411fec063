"""Reads the tokenizer from a folder of Hugging Face files: tokenizer.json and the config files beside it.

The file's normaliser, pre-tokenizer and model are used unchanged. Its decoder shows the family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Encoder

from octavo.errors import TokenizerError
from octavo.tokenizer import bpe, spm
from octavo.tokenizer.parts import Encoders, Parts, without_special
from octavo.tokenizer.vocab import Kind, Vocabulary, end_ids

NAME = "tokenizer.json"
MAX_BYTES = 1 << 28  # 256 MB; Gemma's, the largest known, has 33


def read(path: Path) -> Parts:
    """Reads a tokenizer. path: the folder, or its tokenizer.json. Raises TokenizerError with the bad file's name."""
    file = path / NAME if path.is_dir() else path
    encoder = _load(file)
    config = _read_json(file.with_name("tokenizer_config.json"))
    generation = _read_json(file.with_name("generation_config.json"))
    steps = _decoder_steps(encoder, file)
    vocab = _vocabulary(encoder, config, generation)
    return Parts(
        vocab,
        Encoders(encoder, without_special(encoder)),
        bpe.token_bytes if "ByteLevel" in steps else spm.token_bytes,
        *_surround(encoder, vocab, config),
        space_prefix="Strip" in steps or steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never",
        chat_template=_chat_template(file.with_name("chat_template.jinja"), config),
    )


def _load(file: Path) -> Encoder:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise TokenizerError(f"{file}: over {MAX_BYTES >> 20} MB")
        encoder = Encoder.from_buffer(file.read_bytes())
    except OSError as error:
        raise TokenizerError(f"{file}: {error.strerror or error}") from error
    except TokenizerError:
        raise
    except Exception as error:  # the library raises plain Exception for a bad file
        raise TokenizerError(f"{file}: {error}") from error
    encoder.no_truncation()  # training settings that some files carry
    encoder.no_padding()
    return encoder


def _decoder_steps(encoder: Encoder, file: Path) -> dict[str, Any]:
    """The decoder's steps by type."""
    state = json.loads(encoder.decoder.__getstate__()) if encoder.decoder is not None else {}
    steps = {step.get("type"): step for step in state.get("decoders", [state])}
    if not steps.keys() & {"ByteLevel", "ByteFallback", "Metaspace"}:
        names = ", ".join(map(str, steps))
        raise TokenizerError(f"{file}: decoder {names} is not supported, only byte-level BPE and SentencePiece are")
    return steps


def _vocabulary(encoder: Encoder, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Vocabulary:
    ids = encoder.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    kinds = np.full(len(tokens), Kind.NORMAL, np.uint8)
    for text, i in ids.items():
        tokens[i] = text
    kinds[[i for text, i in ids.items() if spm.BYTE_TOKEN.fullmatch(text)]] = Kind.BYTE
    for i, token in encoder.get_added_tokens_decoder().items():
        kinds[i] = Kind.CONTROL if token.special else Kind.USER_DEFINED
    unknown = ids.get(str(getattr(encoder.model, "unk_token", None)))
    if unknown is not None:
        kinds[unknown] = Kind.UNKNOWN
    stated = generation.get("eos_token_id")
    ends = [ids.get(_text(config, "eos_token")), *(stated if isinstance(stated, list) else [stated])]
    eos_ids = end_ids(tokens, kinds, [i if isinstance(i, int) and 0 <= i < len(tokens) else None for i in ends])
    return Vocabulary(tokens, kinds, ids.get(_text(config, "bos_token")), eos_ids, unknown)


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    return str(value.get("content")) if isinstance(value, dict) else str(value)


def _surround(
    encoder: Encoder, vocab: Vocabulary, config: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids before and after a text.

    They come from the file's post-processor. tokenizer_config.json overrides it, as in transformers.
    """
    bare, full = encoder.encode("a", add_special_tokens=False).ids, encoder.encode("a").ids
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    before, after = tuple(full[:start]), tuple(full[start + len(bare) :])
    wanted = config.get("add_bos_token")
    if isinstance(wanted, bool) and vocab.bos_id is not None:
        before = (vocab.bos_id,) if wanted else ()
    return before, after


def _chat_template(file: Path, config: Mapping[str, Any]) -> str | None:
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None


def _read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a config file; empty if there is no such file."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{file}: an object is needed")
    return value
