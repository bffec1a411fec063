"""What a tokenizer is made of, whichever file it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Encoder

from octavo.errors import RequestError
from octavo.tokenizer.vocab import Kind, Vocabulary


@dataclass(frozen=True, eq=False, slots=True)
class Encoders:
    """Two encoders over one model: whether control tokens are recognised is a property of the request.

    (The library has a switch for that, but on the encoder: threads would turn it under each other's hands.)
    """

    parsing: Encoder
    plain: Encoder

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Raises RequestError for text that is not Unicode: a lone surrogate, as in JSON's "\\ud800"."""
        encoder = self.parsing if parse_special else self.plain
        try:
            return encoder.encode(text, add_special_tokens=False).ids
        except TypeError:  # the library's word for it; Python's own says where
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
    """token_bytes: (text, kind) of a token -> the bytes it stands for.
    prefix_ids, suffix_ids: what goes around a text: its beginning-of-text token, seldom an end.
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
    """User-defined tokens are found in any text, as SentencePiece does; control tokens only where asked for."""
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
    encoder = Encoder(model)  # shares the model, copies nothing
    if normalizer is not None:
        encoder.normalizer = normalizer
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    return encoder


def _added(text: str, special: bool = False) -> AddedToken:
    # A text with U+2581 can only be met after spaces were rewritten, that is, in normalised text.
    return AddedToken(text, special=special, normalized=not special and "\u2581" in text)
