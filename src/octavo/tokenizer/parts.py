"""The parts of a tokenizer, whichever file format it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Encoder

from octavo.errors import RequestError
from octavo.tokenizer.vocab import Kind, Vocabulary


@dataclass(frozen=True, eq=False, slots=True)
class Encoders:
    """Two encoders over one model: `parsing` recognises control tokens, `plain` does not.

    The library has a switch for that, but on the encoder. Threads with different requests would race for it.
    """

    parsing: Encoder
    plain: Encoder


def encode(encoder: Encoder, text: str) -> list[int]:
    """Raises RequestError for text that is not Unicode: a lone surrogate, as in JSON's "\\ud800"."""
    try:
        return encoder.encode(text, add_special_tokens=False).ids
    except TypeError:  # the library does not say where; Python's own error does
        _check_unicode(text)
        raise


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"character {error.start} is a lone surrogate"
        raise RequestError(f"the prompt is not valid Unicode: {problem}", field="prompt") from error


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """The parts of a tokenizer. token_bytes: maps a token's (text, kind) to its bytes.

    prefix_ids, suffix_ids: ids around a text: usually a beginning-of-text token, rarely an end.
    space_prefix: encoding puts a space before the text, so decoding drops one (SentencePiece's "dummy prefix").
    """

    vocab: Vocabulary
    encoders: Encoders
    token_bytes: Callable[[str, int], bytes]
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    space_prefix: bool = False
    chat_template: str | None = None


def make_encoders(
    vocab: Vocabulary,
    model: models.Model,
    normalizer: normalizers.Normalizer | None = None,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
) -> Encoders:
    """Makes both encoders. Both find user-defined tokens, like SentencePiece; only `parsing` finds control tokens."""
    parsing = _encoder(model, normalizer, pre_tokenizer)
    parsing.add_tokens([_added(vocab.tokens[i]) for i in vocab.ids_of(Kind.USER_DEFINED)])
    parsing.add_special_tokens([_added(vocab.tokens[i], True) for i in vocab.ids_of(Kind.CONTROL, Kind.UNKNOWN)])
    return Encoders(parsing, without_special(parsing))


def without_special(parsing: Encoder) -> Encoder:
    """An encoder that shares everything with `parsing` but reads its special tokens as plain text."""
    plain = _encoder(parsing.model, parsing.normalizer, parsing.pre_tokenizer)
    plain.add_tokens([token for token in parsing.get_added_tokens_decoder().values() if not token.special])
    return plain


def without_prefix(whole: Encoder) -> Encoder:
    """An encoder that shares everything with `whole` but puts no space before a text; `whole` itself if it does not."""
    steps = {name: _state(getattr(whole, name)) for name in ("normalizer", "pre_tokenizer")}
    bare = {name: _without_prefix(state) for name, state in steps.items()}
    if bare == steps:
        return whole
    parts = Encoder.from_str(json.dumps({**EMPTY, **bare}))
    encoder = _encoder(whole.model, parts.normalizer, parts.pre_tokenizer)
    encoder.add_tokens(list(whole.get_added_tokens_decoder().values()))
    return encoder


# A tokenizer without content, to read steps with.
EMPTY: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}
SEQUENCES = ("normalizers", "pretokenizers")  # the keys of steps within a step


def _state(step: Any) -> Any:
    return None if step is None else json.loads(step.__getstate__())


def _without_prefix(step: Any) -> Any:
    """A step, as JSON, without what puts a space before a text; None if nothing is left."""
    match step:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**step, "prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return {**step, "add_prefix_space": False}
        case {"type": "Sequence"}:
            key = next(name for name in SEQUENCES if name in step)
            kept = [_without_prefix(inner) for inner in step[key]]
            return {**step, key: [inner for inner in kept if inner is not None]}
    return step


def _encoder(
    model: models.Model,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
) -> Encoder:
    encoder = Encoder(model)  # shares the model without a copy
    if normalizer is not None:
        encoder.normalizer = normalizer
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    return encoder


def _added(text: str, special: bool = False) -> AddedToken:
    # U+2581 occurs only in normalised text, where it replaces spaces.
    return AddedToken(text, special=special, normalized=not special and "\u2581" in text)
