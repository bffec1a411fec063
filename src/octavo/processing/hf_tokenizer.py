"""The tokenizer as scripts for vLLM and transformers use it: `get_tokenizer()` of `LLM` and `AsyncLLM`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex, cast

from octavo import unsupported
from octavo.errors import RequestError
from octavo.processing.inputs import Message, chats, checked_tools
from octavo.tokenizer import Tokenizer

ENDLESS = int(1e30)  # `model_max_length` of a tokenizer that knows no limit, as in transformers
CUTS = {"longest_first": True, "only_first": True, "do_not_truncate": False}  # names of `truncation`


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
    name: the model's, as given. model_max_length: most tokens of a text and its answer.
    others, in the methods: further arguments of transformers, which may ask for nothing (`padding=False`).
    Methods raise RequestError for what they cannot read or do.
    """

    is_fast = True
    padding_side = truncation_side = "right"
    sep_token = cls_token = mask_token = None
    sep_token_id = cls_token_id = mask_token_id = None
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, tokenizer: Tokenizer, name: str = "", model_max_length: int = ENDLESS):
        self._tokenizer = tokenizer
        self.name_or_path = name
        self.model_max_length = model_max_length
        self.vocab_size = tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = tokenizer.eos_ids[0] if tokenizer.eos_ids else None
        self.pad_token_id = self.eos_token_id
        self.unk_token_id = tokenizer.unknown_id
        self.bos_token = self._name(self.bos_token_id)
        self.eos_token = self.pad_token = self._name(self.eos_token_id)
        self.unk_token = self._name(self.unk_token_id)
        self.add_bos_token = bool(tokenizer.prefix_ids)
        self.chat_template = tokenizer.chat_template
        self.all_special_ids = sorted(tokenizer.special_ids)
        self.all_special_tokens = [tokenizer.token_text(token) for token in self.all_special_ids]
        kinds = {"bos_token": self.bos_token, "eos_token": self.eos_token, "unk_token": self.unk_token}
        self.special_tokens_map = {kind: token for kind, token in kinds.items() if token is not None}
        self.additional_special_tokens = [
            token for token in self.all_special_tokens if token not in self.special_tokens_map.values()
        ]

    def _name(self, token: int | None) -> str | None:
        return None if token is None else self._tokenizer.token_text(token)

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: None = None,
        add_special_tokens: bool = True,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        **others: Any,
    ) -> Encoding:
        """Encodes a text, or each of a list. truncation: cut to `max_length` tokens, or to `model_max_length`."""
        how = {"text_pair": text_pair, "add_special_tokens": add_special_tokens, "truncation": truncation, **others}
        if not isinstance(text, list | tuple):
            return _encoding(self.encode(cast(str, text), max_length=max_length, **how))
        return _encoding([self.encode(each, max_length=max_length, **how) for each in text])

    def encode(
        self,
        text: str,
        text_pair: None = None,
        add_special_tokens: bool = True,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        **others: Any,
    ) -> list[int]:
        unsupported.refuse("encode", {"text_pair": text_pair, **others}, unsupported.TOKENIZE)
        if not isinstance(text, str):
            raise RequestError(f"text must be a string; got {type(text).__name__}", "text")
        ids = self._tokenizer.encode(text, add_special=add_special_tokens)
        return self._cut(ids, truncation, max_length)

    def _cut(self, ids: list[int], truncation: bool | str, most: int | None) -> list[int]:
        cut = truncation if isinstance(truncation, bool) else CUTS.get(str(truncation))
        if cut is None:
            raise RequestError(f"truncation must be True or False; got {truncation!r:.60}", "truncation")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise RequestError(f"max_length must be a number of tokens; got {most!r:.60}", "max_length")
        return ids[: self.model_max_length if most is None else most] if cut else ids

    def decode(
        self, token_ids: SupportsIndex | Iterable[SupportsIndex], skip_special_tokens: bool = False, **others: Any
    ) -> str:
        unsupported.refuse("decode", others, unsupported.DECODE)
        return self._tokenizer.decode(_ids(token_ids), skip_special=skip_special_tokens)

    def batch_decode(
        self, sequences: Iterable[Iterable[SupportsIndex]], skip_special_tokens: bool = False, **others: Any
    ) -> list[str]:
        """Decodes each of several lists of ids."""
        if not isinstance(sequences, Iterable):
            raise RequestError(f"sequences must be lists of token ids; got {type(sequences).__name__}", "sequences")
        return [self.decode(ids, skip_special_tokens, **others) for ids in sequences]

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        """The texts of a text's tokens, as the model file stores them."""
        return [self._tokenizer.token_text(token) for token in self.encode(text, add_special_tokens=add_special_tokens)]

    def convert_ids_to_tokens(
        self, ids: SupportsIndex | Iterable[SupportsIndex], skip_special_tokens: bool = False
    ) -> Any:
        """The text of a token as the model file stores it, or of each of a list."""
        listed = _ids(ids)
        if wrong := [token for token in listed if not 0 <= token < self.vocab_size]:
            raise RequestError(f"token ids are 0 to {self.vocab_size - 1}; got {wrong[0]}", "ids")
        hidden = self._tokenizer.special_ids if skip_special_tokens else ()
        texts = [self._tokenizer.token_text(token) for token in listed if token not in hidden]
        return texts if isinstance(ids, Iterable) else next(iter(texts), None)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or of each of a list; `unk_token_id` for an unknown one."""
        if isinstance(tokens, str):
            return self.vocab.get(tokens, self.unk_token_id)
        if not isinstance(tokens, Iterable):
            raise RequestError(f"tokens must be a token's text, or a list; got {type(tokens).__name__}", "tokens")
        return [self.vocab.get(token, self.unk_token_id) for token in tokens]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text of tokens that `tokenize` returned."""
        return self.decode([self.vocab[token] for token in tokens if token in self.vocab])

    @cached_property
    def vocab(self) -> dict[str, int]:
        return {self._tokenizer.token_text(token): token for token in range(self.vocab_size)}

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """The control tokens."""
        return dict(zip(self.all_special_tokens, self.all_special_ids, strict=True))

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template that `apply_chat_template` uses. Raises RequestError if there is none."""
        if (template := chat_template or self.chat_template) is None:
            raise RequestError("this model has no chat template: pass chat_template", "chat_template")
        return template

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_dict: bool = False,
        **others: Any,
    ) -> Any:
        """Renders a conversation, or each of a list: token ids, or text with `tokenize=False`.

        return_dict: as a call returns them. others: arguments that may ask for nothing, and variables of the template.
        Raises RequestError for malformed messages, TokenizerError for a template that fails or is missing.
        """
        if return_dict and not tokenize:
            raise RequestError("return_dict needs tokenize=True", "return_dict")
        known = {name: others.pop(name) for name in unsupported.TEMPLATE.keys() & others.keys()}
        unsupported.refuse("apply_chat_template", known, unsupported.TEMPLATE)
        ends = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        options = {"tools": checked_tools(tools) or None, **ends, **others}
        talks = chats(conversation, "conversation")
        made = [self._rendered(talk, chat_template, options) for talk in talks]
        results: list[Any] = [self._cut(ids, truncation, max_length) if tokenize else text for text, ids in made]
        result = results if isinstance(conversation[0], list | tuple) else results[0]
        return _encoding(result) if return_dict else result

    def _rendered(
        self, talk: Sequence[Message], template: str | None, options: Mapping[str, Any]
    ) -> tuple[str, list[int]]:
        from octavo import chat  # jinja2 takes 40 ms, which plain completion need not spend

        return chat.prompt(self._tokenizer, talk, template, **options)


def _encoding(ids: list[Any]) -> Encoding:
    """ids: of a text, or of each of several."""
    many = bool(ids) and isinstance(ids[0], list)
    return Encoding(input_ids=ids, attention_mask=[[1] * len(each) for each in ids] if many else [1] * len(ids))


def _ids(given: SupportsIndex | Iterable[SupportsIndex]) -> list[int]:
    """A list of ids, from one or several, numpy's integers among them. Raises RequestError."""
    listed = list(given) if isinstance(given, Iterable) else [given]
    for each in listed:
        if isinstance(each, bool | str) or not isinstance(each, SupportsIndex):
            raise RequestError(f"token_ids must be an id or a list of ids; got {each!r:.60}", "token_ids")
    return [each.__index__() for each in listed]
