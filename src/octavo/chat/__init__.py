"""Renders chat messages as a prompt with the model's Jinja template: `prompt`, or `render` for the text alone.

Templates come from model files, which are not trusted: see `sandbox`. Message text that looks like a control token
("<|im_end|>") is not escaped. Encoding the prompt turns it into that token, as in transformers, vLLM and llama.cpp.
An application that passes on untrusted text must remove such text itself.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateSyntaxError

from octavo.chat import continuing, limits
from octavo.chat.limits import LimitError, Meter
from octavo.chat.messages import normalise
from octavo.chat.sandbox import Sandbox
from octavo.errors import RequestError, TokenizerError
from octavo.tokenizer import Tokenizer

__all__ = ["checked_variables", "chosen_template", "normalise", "prompt", "render"]

RESERVED = {
    "messages",
    "tools",
    "bos_token",
    "eos_token",
    "add_generation_prompt",
    "continue_final_message",
    "template",
}


FLAGS = {"add_generation_prompt", "continue_final_message"}


def prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], template: str | None = None, /, **options: Any
) -> tuple[str, list[int]]:
    """Returns the prompt for `messages` and its token ids. template: None uses the model's. options: see `render`.

    Raises the errors of `render`, and TokenizerError for a model without a template.
    """
    template = chosen_template(tokenizer, template)
    for name in FLAGS & options.keys():
        if not isinstance(options[name], bool):
            raise RequestError(f"{name} must be True or False; got {options[name]!r:.60}", name)
    if template is None:
        raise TokenizerError("this model has no chat template: pass chat_template, or use generate")
    bos = "" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id)
    eos = tokenizer.token_text(tokenizer.eos_ids[0]) if tokenizer.eos_ids else ""
    text = render(template, messages, bos_token=bos, eos_token=eos, **options)
    return text, tokenizer.encode(text, add_special=False)  # templates write their own beginning-of-text token


def chosen_template(tokenizer: Tokenizer, given: str | None) -> str | None:
    """The given template, or the model's; None if it has none. Raises RequestError for one that is no text."""
    if given is not None and not isinstance(given, str):
        raise RequestError(f"chat_template must be a template's text; got {type(given).__name__}", "chat_template")
    return tokenizer.chat_template if given is None else given


def checked_variables(given: Mapping[str, Any] | None, enable_thinking: bool | None = None) -> dict[str, Any]:
    """Returns further variables for a template. Raises RequestError for one that has another source."""
    if given is not None and not isinstance(given, Mapping):
        raise RequestError(
            f"chat_template_kwargs must be a mapping; got {type(given).__name__}", "chat_template_kwargs"
        )
    if enable_thinking is not None and not isinstance(enable_thinking, bool):
        raise RequestError(f"enable_thinking must be True or False; got {enable_thinking!r:.60}", "enable_thinking")
    if taken := RESERVED & (given or {}).keys():
        raise RequestError(f"chat_template_kwargs: {min(taken)!r} cannot be set there", "chat_template_kwargs")
    return {**({} if enable_thinking is None else {"enable_thinking": enable_thinking}), **(given or {})}


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    bos_token: str = "",
    eos_token: str = "",
    **extra: Any,
) -> str:
    """Returns the prompt text. Encode it with `add_special=False`: templates write the beginning-of-text token.

    messages: in OpenAI's form; content is text, or a list of {"type": "text", "text": ...}. tools: in OpenAI's form.
    add_generation_prompt: end with the beginning of an answer. continue_final_message: end within the last message
    instead, so that an answer continues it.
    extra: more variables for the template, such as enable_thinking.
    Raises RequestError for malformed messages, TokenizerError for a template that fails, refuses the messages
    (`raise_exception`), or takes more than 250 ms of processor time or 1 M characters.
    """
    talk = normalise(messages)
    variables = {
        **extra,
        "messages": continuing.marked(talk) if continue_final_message else talk,
        "add_generation_prompt": add_generation_prompt and not continue_final_message,
        "tools": tools,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    text = _render(template, variables)
    return continuing.cut(text) if continue_final_message else text


def _render(template: str, variables: Mapping[str, Any]) -> str:
    try:
        return _run(_compile(template), variables)
    except TemplateSyntaxError as error:
        raise TokenizerError(f"chat template, line {error.lineno}: {_shorten(error.message)}") from error
    except LimitError as error:
        raise TokenizerError(f"chat template stopped: {error}") from error
    except RecursionError as error:
        raise TokenizerError("chat template stopped: it is nested too deeply") from error
    except Exception as error:  # a template can raise any Python exception, and none of them is our bug
        raise TokenizerError(f"chat template: {_shorten(str(error) or type(error).__name__)}") from error


@functools.cache
def _sandbox() -> Sandbox:
    return Sandbox()


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    return _sandbox().from_string(source)


def _run(template: Template, variables: Mapping[str, Any]) -> str:
    meter = Meter()
    token = limits.start(meter)
    try:
        pieces, size = [], 0
        for piece in template.generate(variables):
            size += len(piece)
            meter.allow(size)
            meter.tick(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    finally:
        limits.stop(token)


def _shorten(message: str | None) -> str:
    return (message or "")[:500]
