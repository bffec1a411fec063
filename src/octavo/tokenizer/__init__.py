"""Text to token ids and back: `Tokenizer`, and `Detokenizer` for text that arrives token by token."""

from octavo.tokenizer.detokenize import Detokenizer, TokenTexts
from octavo.tokenizer.fill import FillTokens
from octavo.tokenizer.tokenizer import Tokenizer

__all__ = ["Detokenizer", "FillTokens", "TokenTexts", "Tokenizer"]
