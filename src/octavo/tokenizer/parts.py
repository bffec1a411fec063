"""The parts of a tokenizer, whichever file format it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Raises RequestError for text that is not Unicode: a lone surrogate, as in JSON's "\\ud800"."""
        encoder = self.parsing if parse_special else self.plain
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
