"""Converts the messages and tools of any chat API to a prompt, and finds the constraints on the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from octavo.chat.messages import normalise
from octavo.errors import OctavoError
from octavo.processing.inputs import Tokens
from octavo.server.generation import tools
from octavo.server.generation.job import off_loop
from octavo.server.generation.tool_reader import ToolReader
from octavo.server.http.errors import bad_request, from_octavo
from octavo.server.runtime import Runtime
from octavo.types import Json, StructuredOutputs


@dataclass(frozen=True, slots=True)
class ChatInput:
    """The input of a chat request, in OpenAI's format.

    choice: "none", "auto", "required", or the name of the tool that must be called.
    parallel: whether one answer may hold several calls.
    """

    messages: list[Json]
    tools: list[Json] = field(default_factory=list)
    choice: str = "auto"
    parallel: bool = True
    variables: Json = field(default_factory=dict)  # extra variables for the chat template


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt and the constraints on its answer.

    structure: grammar of the answer if a tool must be called.
    reader: makes a reader for one answer; None without tools.
    keep_special: the output must keep control tokens, because they mark tool calls.
    """

    prompt: Tokens
    structure: StructuredOutputs | None = None
    reader: Callable[[], ToolReader] | None = None
    keep_special: bool = False


async def make_chat_prompt(runtime: Runtime, chat: ChatInput) -> ChatPrompt:
    """Renders and tokenises the chat. Raises ApiError for invalid messages or tools."""
    template = runtime.template
    form, offered = tools.format_of(template), _offered(chat)
    messages = [_role_known(message) for message in _checked(chat.messages)]
    if tools.knows_tools(template):
        given: list[Json] | None = offered or None
    else:
        messages, given = tools.explain(messages, offered), None
    render = partial(_encode, runtime, messages, given, chat.variables)
    prompt = await off_loop(render, sum(len(str(message.get("content"))) for message in messages))
    if not offered:
        return ChatPrompt(prompt)
    must = chat.choice not in ("auto", "none")
    several = chat.parallel and chat.choice == "required"  # a named tool is called once
    structure = tools.forced(form, offered, several) if must else None
    return ChatPrompt(prompt, structure, partial(ToolReader, form), _marked_by_control_token(runtime))


def _checked(messages: list[Json]) -> list[Json]:
    """Joins the parts of each content to one text. Raises ApiError for an incomplete tool call."""
    for number, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                field = f"messages[{number}].tool_calls"
                raise bad_request(f"{field}: each needs a function with a name", field)
    try:
        return normalise(messages)
    except OctavoError as error:
        raise from_octavo(error) from error


def _offered(chat: ChatInput) -> list[Json]:
    """The tools that the model may call."""
    if chat.choice == "none":
        return []
    if not chat.tools:
        if chat.choice != "auto":
            raise bad_request("tool_choice: there are no tools to choose from", "tool_choice")
        return []
    if chat.choice in ("auto", "required"):
        return chat.tools
    named = [tool for tool in chat.tools if tool["function"]["name"] == chat.choice]
    if not named:
        raise bad_request(f"tool_choice: there is no tool {chat.choice!r}", "tool_choice")
    return named


def _role_known(message: Json) -> Json:
    """Renames OpenAI's newer role \"developer\" to \"system\", because templates do not know it."""
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _encode(runtime: Runtime, messages: list[Json], given: list[Json] | None, variables: Json) -> Tokens:
    prompt = runtime.render(messages, given, **variables)
    if not prompt.ids:
        raise bad_request("messages: the chat template makes an empty prompt of them", "messages")
    return prompt


def _marked_by_control_token(runtime: Runtime) -> bool:
    assert runtime.tokenizer is not None
    special = runtime.tokenizer.special_ids
    return any(token in special for token in runtime.tokenizer.encode(tools.OPEN, add_special=False))
