"""The tokenizer inside a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo.errors import TokenizerError
from octavo.tokenizer import bpe, spm
from octavo.tokenizer.parts import Parts
from octavo.tokenizer.vocab import KEY, read_vocabulary

FAMILIES = {"gpt2": bpe.read, "llama": spm.read}
# What an absent key means, as in llama.cpp.
UNSTATED: dict[str, dict[str, int]] = {
    "gpt2": {},
    "llama": {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def read(metadata: Mapping[str, Any], pre: str | None = None) -> Parts:
    """Reads the tokenizer from a GGUF file's metadata. pre: a pre-tokenizer to use instead of the file's, by name.

    Raises TokenizerError with the bad key's name.
    """
    family = metadata.get(KEY + "model")
    if not isinstance(family, str) or family not in FAMILIES:
        raise TokenizerError(f"{KEY}model: {family!r} is not supported (supported: {', '.join(FAMILIES)})")
    parts = FAMILIES[family](metadata, read_vocabulary(metadata, UNSTATED[family]), pre)
    return replace(parts, chat_template=_chat_template(metadata))


def _chat_template(metadata: Mapping[str, Any]) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError("tokenizer.chat_template: a string in UTF-8 is needed")
    return template or None
