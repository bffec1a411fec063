"""The tokenizer as scripts for vLLM and transformers use it: `get_tokenizer()` of `LLM` and `AsyncLLM`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octavo.errors import RequestError
from octavo.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class Encoding(dict[str, Any]):
    """What a call returns: "input_ids" and "attention_mask", as items and as attributes."""

    @property
    def input_ids(self) -> Any:
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        return self["attention_mask"]


class HFTokenizer:
    """Methods and defaults are those of transformers: `decode` keeps control tokens unless told otherwise.

    No text is padded: the pad token is the end-of-sequence token, for programs that ask for one.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = tokenizer.eos_ids[0] if tokenizer.eos_ids else None
        self.pad_token_id = self.eos_token_id
        self.bos_token = None if self.bos_token_id is None else tokenizer.token_text(self.bos_token_id)
        self.eos_token = None if self.eos_token_id is None else tokenizer.token_text(self.eos_token_id)
        self.pad_token = self.eos_token
        self.chat_template = tokenizer.chat_template
        self.all_special_ids = sorted(tokenizer.special_ids)
        self.all_special_tokens = [tokenizer.token_text(token) for token in self.all_special_ids]
        self.is_fast = True

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Encodes a text, or each of a list. truncation: cut to `max_length` tokens."""
        if isinstance(text, str):
            ids: Any = self.encode(text, add_special_tokens, truncation, max_length)
            return Encoding(input_ids=ids, attention_mask=[1] * len(ids))
        ids = [self.encode(each, add_special_tokens, truncation, max_length) for each in text]
        return Encoding(input_ids=ids, attention_mask=[[1] * len(each) for each in ids])

    def encode(
        self, text: str, add_special_tokens: bool = True, truncation: bool = False, max_length: int | None = None
    ) -> list[int]:
        ids = self._tokenizer.encode(text, add_special=add_special_tokens)
        return ids[:max_length] if truncation else ids

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self._tokenizer.decode(ids, skip_special=skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def tokenize(self, text: str) -> list[str]:
        """The texts of a text's tokens, as the model file stores them."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.token_text(token) for token in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or of each of a list; None for an unknown one."""
        vocabulary = self.get_vocab()
        return vocabulary.get(tokens) if isinstance(tokens, str) else [vocabulary.get(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        return {self._tokenizer.token_text(token): token for token in range(self.vocab_size)}

    def apply_chat_template(
        self,
        conversation: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        **variables: Any,
    ) -> Any:
        """Renders a conversation: token ids, or text with `tokenize=False`.

        return_dict: as a call returns them. variables: further ones for the template. Raises RequestError for malformed
        messages, TokenizerError for a template that fails or is missing.
        """
        from octavo import chat  # jinja2 takes 40 ms, which plain completion need not spend

        if return_dict and not tokenize:
            raise RequestError("return_dict needs tokenize=True", "return_dict")
        options = {"add_generation_prompt": add_generation_prompt, "tools": tools, **variables}
        text, ids = chat.prompt(self._tokenizer, conversation, chat_template, **options)
        if not tokenize:
            return text
        return Encoding(input_ids=ids, attention_mask=[1] * len(ids)) if return_dict else ids
