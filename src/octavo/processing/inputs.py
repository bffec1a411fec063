"""Turns a user's prompts (in any form) and parameters into engine requests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard, cast

from octavo import unsupported
from octavo.errors import CapacityError, RequestError
from octavo.sampling.grammar import Compiler, Grammar
from octavo.sampling.params import Span, check, check_range, check_type
from octavo.sampling_params import SamplingParams
from octavo.tokenizer import Tokenizer
from octavo.types import Request

if TYPE_CHECKING:
    from typing_extensions import NotRequired  # part of `typing` from Python 3.11 on

Message = Mapping[str, Any]
Prompt = str | list[int] | Mapping[str, Any]  # a mapping has "prompt" or "prompt_token_ids", and may have "cache_salt"
Prompts = Prompt | list[Prompt] | tuple[Prompt, ...]


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A prompt as token ids. prompt: its text, for the output."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


FORMS = 'a string, a list of token ids, {"prompt": ...} or {"prompt_token_ids": ...}'


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt in token ids. text: its text, if it was given as text."""

    ids: list[int]
    text: str | None = None
    cache_salt: str = ""


class RequestMaker:
    """Makes engine requests for one model.

    max_length: most tokens of a prompt and its answer.
    seed: source of the seeds of requests without one; None is unpredictable.
    eviction: `kv_eviction` of requests that generate and have none of their own.
    compile_grammars: if False, the receiver of the requests must set `Request.grammar`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        max_length: int,
        seed: int | None = None,
        compile_grammars: bool = True,
        eviction: str | None = None,
    ):
        self._tokenizer = tokenizer
        self._compiler = Compiler(tokenizer, vocab_size) if compile_grammars else None
        self._vocab_size = vocab_size
        self._max_length = max_length
        self._eviction = eviction
        self._random = random.Random(seed)
        self._count = 0

    def make(self, tokens: Tokens, params: SamplingParams, request_id: str | None = None, **extra: Any) -> Request:
        """Makes a request. extra: more fields of `Request` (priority, deadline, pooling).

        Raises RequestError for bad parameters.
        """
        return self.make_unchecked(tokens, check(params, self._vocab_size), request_id, **extra)

    def make_unchecked(
        self, tokens: Tokens, params: SamplingParams, request_id: str | None = None, **extra: Any
    ) -> Request:
        """`make` for parameters that were checked before."""
        self._count += 1
        if self._eviction is not None and params.kv_eviction is None and extra.get("pooling") is None:
            params = replace(params, kv_eviction=self._eviction)
        drawn = self._random.getrandbits(64)  # always drawn, so that a request's seed depends only on its number
        return Request(
            request_id=str(self._count - 1) if request_id is None else request_id,
            prompt_token_ids=self._cut(tokens.ids, params),
            params=params,
            seed=drawn if params.seed is None else params.seed,
            cache_salt=tokens.cache_salt,
            eos_token_ids=tuple(self._tokenizer.eos_ids),
            bad_word_ids=tuple(dict.fromkeys(self._bad_words(params))),
            grammar=self._grammar(params),
            **extra,
        )

    def _cut(self, ids: list[int], params: SamplingParams) -> list[int]:
        """The last tokens of a prompt, as `truncate_prompt_tokens` asks."""
        most = params.truncate_prompt_tokens
        if most == -1:
            most = max(1, self._max_length - (1 if params.max_tokens is None else params.max_tokens))
        return ids if most is None else ids[-most:]

    def _grammar(self, params: SamplingParams) -> Grammar | None:
        if params.structured_outputs is None or self._compiler is None:
            return None
        return self._compiler.compile(params.structured_outputs)

    def tokens(self, prompt: Prompt) -> Tokens:
        """Returns the prompt in token ids.

        Raises RequestError for an unknown form, an empty prompt, or a token that the model lacks.
        """
        tokens = self._tokens(prompt)
        check_range("prompt", tokens.ids, self._vocab_size)
        return tokens

    def tokens_of(self, prompts: list[Prompt], field: str = "prompts") -> Iterator[Tokens]:
        """`tokens` of each prompt. An error names the prompt at fault, as one of `field`, if there are several."""
        for number, prompt in enumerate(prompts):
            with named(field, number, len(prompts)):
                tokens = self.tokens(prompt)
            yield tokens

    def _tokens(self, prompt: Prompt) -> Tokens:
        if isinstance(prompt, str):
            return self._encoded(prompt)
        if isinstance(prompt, Mapping):
            return self._from_mapping(prompt)
        if _is_ids(prompt):
            return Tokens(_nonempty(list(prompt)))
        raise RequestError(f"a prompt must be {FORMS}; got {type(prompt).__name__}", "prompt")

    def _from_mapping(self, prompt: Mapping[str, Any]) -> Tokens:
        text, ids, salt = prompt.get("prompt"), prompt.get("prompt_token_ids"), prompt.get("cache_salt", "")
        others = {name: prompt[name] for name in prompt.keys() - {"prompt", "prompt_token_ids", "cache_salt"}}
        if unknown := others.keys() - unsupported.PROMPT.keys():
            raise RequestError(f"a prompt must be {FORMS}; it cannot have {min(unknown, key=str)!r}", "prompt")
        unsupported.refuse("prompt", others, unsupported.PROMPT)
        if not isinstance(salt, str):
            raise RequestError(f"cache_salt must be a string; got {salt!r}", "cache_salt")
        if _is_ids(ids) and (text is None or isinstance(text, str)):
            return Tokens(_nonempty(list(ids)), text, salt)
        if isinstance(text, str) and ids is None:
            return Tokens(self._encoded(text).ids, text, salt)
        raise RequestError(f"a prompt must be {FORMS}", "prompt")

    def _encoded(self, text: str) -> Tokens:
        # Empty text is refused even if the tokenizer would put a beginning-of-text token before it.
        return Tokens(_nonempty(self._tokenizer.encode(text) if text else []), text)

    def _bad_words(self, params: SamplingParams) -> Iterator[tuple[int, ...]]:
        """Yields the ids of each word, once as the start of a text and once after a space.

        A word with a token without embedding is left out: the model cannot generate it.
        """
        for word in params.bad_words:
            for written in (word, " " + word.lstrip()):
                ids = self._tokenizer.spell(written, parse_special=True)
                if ids and max(ids) < self._vocab_size:
                    yield tuple(ids)


def _is_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)


def _nonempty(ids: list[int]) -> list[int]:
    if not ids:
        raise RequestError("the prompt is empty: it must have at least one token", "prompt")
    return ids


@contextmanager
def named(field: str, number: int, among: int) -> Iterator[None]:
    """Says in an error which of several prompts is at fault: "prompts[3]: ...". among: how many there are."""
    try:
        yield
    except (RequestError, CapacityError) as error:
        if among == 1:
            raise
        message = f"{field}[{number}]: {error}"
        raise (
            CapacityError(message) if isinstance(error, CapacityError) else RequestError(message, f"{field}[{number}]")
        ) from error


def as_list(prompts: Prompts) -> list[Prompt]:
    """Returns a list of prompts, from one prompt or a list. A non-empty list of ids is one prompt."""
    many = isinstance(prompts, list | tuple) and not (prompts and _is_ids(prompts))
    return list(cast(Sequence[Prompt], prompts)) if many else [cast(Prompt, prompts)]


CHAT_FORMS = 'a list of messages like {"role": "user", "content": "..."}, or a list of such lists'


def chats(messages: Sequence[Message] | Sequence[Sequence[Message]], field: str = "messages") -> list[list[Message]]:
    """Returns a list of conversations, from one or several. Raises RequestError for what is neither, or an empty one.

    field: what an error calls them. The messages themselves are checked when they are rendered.
    """
    if not isinstance(messages, list | tuple):
        raise RequestError(f"{field} must be {CHAT_FORMS}; got {type(messages).__name__}", field)
    many = bool(messages) and isinstance(messages[0], list | tuple)
    talks = cast(Sequence[Sequence[Message]], messages if many else [messages])
    for number, talk in enumerate(talks):
        with named(field, number, len(talks)):
            if not isinstance(talk, list | tuple):
                raise RequestError("a list of messages is needed, like the first", field)
            if not talk:
                raise RequestError(f"{field}: at least one message is needed", field)
    return [list(talk) for talk in talks]


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Returns the tools as objects. Raises RequestError for what is none, such as a function."""
    if tools is not None and not isinstance(tools, list | tuple):
        raise RequestError(f"tools must be a list of objects in OpenAI's form; got {type(tools).__name__}", "tools")
    for number, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping):
            raise RequestError(
                f"tools[{number}] must be an object in OpenAI's form; got {tool!r:.60}", f"tools[{number}]"
            )
    return [dict(tool) for tool in tools or ()]


PRIORITY = Span(-(2**31), 2**31 - 1, whole=True)


def priorities(given: int | Sequence[int] | None, prompts: int, policy: str) -> list[int]:
    """Returns the priority of each prompt. given: one for all, or one per prompt. policy: of the engine.

    Raises RequestError for what is no integer, and for any priority but 0 if the engine heeds none.
    """
    listed: list[Any] = list(given) if isinstance(given, list | tuple) else [0 if given is None else given] * prompts
    if len(listed) != prompts:
        raise RequestError(f"there are {prompts} prompts but {len(listed)} priorities", "priority")
    for number, each in enumerate(listed):
        if not PRIORITY.holds(each):
            raise RequestError(f"priority[{number}] must be {PRIORITY}; got {each!r:.60}", "priority")
    if any(listed) and policy != "priority":
        raise RequestError(f"priority needs an engine with policy='priority'; this one has {policy!r}", "priority")
    return [int(each) for each in listed]


def pair(prompts: list[Any], params: SamplingParams | list[SamplingParams] | None) -> list[SamplingParams]:
    """Returns one SamplingParams per prompt. params: one for all prompts, or one per prompt."""
    if not isinstance(params, list | tuple):
        params = SamplingParams() if params is None else params
        check_type(params)
        return [params] * len(prompts)
    if len(params) != len(prompts):
        raise RequestError(f"there are {len(prompts)} prompts but {len(params)} sampling_params", "sampling_params")
    for number, each in enumerate(params):
        with named("sampling_params", number, len(params)):
            check_type(each)
    return list(params)
