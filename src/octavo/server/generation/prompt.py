"""Converts the messages and tools of any chat API to a prompt, and says how its answers are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from octavo.answers import reasoning
from octavo.answers.reader import Reading
from octavo.answers.tool_formats import Format, parser_for, takes_arguments
from octavo.answers.tool_grammar import forced
from octavo.answers.tool_prompt import prepared
from octavo.answers.tool_schema import arguments_schema, no_object
from octavo.chat import continuing
from octavo.chat.messages import normalise
from octavo.errors import OctavoError
from octavo.processing.inputs import Tokens
from octavo.sampling.grammar import why_unusable
from octavo.sampling_params import StructuredOutputs
from octavo.server.generation.job import off_loop
from octavo.server.http.errors import ApiError, bad_request, from_octavo
from octavo.server.runtime import Runtime
from octavo.types import Json


@dataclass(frozen=True, slots=True)
class ChatInput:
    """The input of a chat request, in OpenAI's format.

    choice: "none", "auto", "required", or the name of the tool that must be called.
    parallel: whether one answer may hold several calls.
    continues: the answer continues the last message, which is not ended.
    structured: the answer must have a given structure, so it has no reasoning.
    """

    messages: list[Json]
    tools: list[Json] = field(default_factory=list)
    choice: str = "auto"
    parallel: bool = True
    variables: Json = field(default_factory=dict)  # extra variables for the chat template
    generates: bool = True  # whether the prompt ends with the beginning of an answer
    continues: bool = False
    structured: bool = False


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt and the constraints on its answer.

    structure: grammar of the answer if a tool must be called.
    reading: how answers are read; None if an answer is plain text.
    keep_special: the output must keep control tokens, because they mark tool calls or reasoning.
    """

    prompt: Tokens
    structure: StructuredOutputs | None = None
    reading: Reading | None = None
    keep_special: bool = False


async def make_chat_prompt(runtime: Runtime, chat: ChatInput) -> ChatPrompt:
    """Renders and tokenises the chat. Raises ApiError for invalid messages or tools."""
    template = runtime.template
    parser, offered = parser_for(template, runtime.model.tool_call_parser), _offered(chat)
    messages = [_role_known(message) for message in _checked(chat.messages, chat.continues)]
    messages, given = prepared(template, parser.taught, messages, offered)
    render = partial(_encode, runtime, messages, given, chat)
    prompt = await off_loop(render, sum(len(str(message.get("content"))) for message in messages))
    must = bool(offered) and chat.choice not in ("auto", "none")
    if must:
        await off_loop(partial(_check_forced, chat, offered), len(str(offered)))
    thinks = None if must or chat.structured else reasoning.reasoning_for(template, runtime.model.reasoning_parser)
    if not offered and thinks is None:
        return ChatPrompt(prompt)
    reading = Reading(
        thinks,
        thinks is not None and _opened(chat, messages, prompt, thinks),
        {tool["function"]["name"]: takes_arguments(tool["function"]) for tool in offered},
        parser.read,
        chat.parallel,
        must,
    )
    several = chat.parallel and chat.choice == "required"  # a named tool is called once
    structure = forced(parser.taught, offered, several) if must else None
    return ChatPrompt(prompt, structure, reading, _marked_by_control_token(runtime, reading, parser.taught))


def template_variables(given: Json | None, enable_thinking: bool | None = None, effort: str | None = None) -> Json:
    """Variables for the chat template. effort: of reasoning; "none" turns it off. Raises ApiError."""
    from octavo import chat

    thinks = False if effort == "none" and enable_thinking is None else enable_thinking
    try:
        variables = chat.checked_variables(given, thinks)
    except OctavoError as error:
        raise from_octavo(error) from error
    return variables if effort is None else {"reasoning_effort": effort, **variables}


def _opened(chat: ChatInput, messages: list[Json], prompt: Tokens, thinks: reasoning.Reasoning) -> bool:
    """Whether the answer begins within reasoning."""
    if chat.continues:
        return reasoning.opened_in(messages[-1]["content"], thinks)
    return reasoning.opened_by(prompt.text or "", thinks)


def _checked(messages: list[Json], continues: bool) -> list[Json]:
    """Joins the parts of each content to one text.

    Raises ApiError for an incomplete tool call, and for a last message that cannot be continued though it shall be.
    """
    for number, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                field = f"messages[{number}].tool_calls"
                raise bad_request(f"{field}: each needs a function with a name", field)
    try:
        talk = normalise(messages)
        if continues:
            continuing.check(talk)
        return talk
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
    for tool in chat.tools:
        if reason := no_object(tool["function"].get("parameters") or {}):
            raise _bad_tool(chat, tool, "no arguments fit the parameters of", f"they are an object, but {reason}")
    if chat.choice in ("auto", "required"):
        return chat.tools
    named = [tool for tool in chat.tools if tool["function"]["name"] == chat.choice]
    if not named:
        raise bad_request(f"tool_choice: there is no tool {chat.choice!r}", "tool_choice")
    return named


def _check_forced(chat: ChatInput, offered: list[Json]) -> None:
    """Raises ApiError that names the tool if no grammar can force its arguments."""
    for tool in offered:
        if takes_arguments(tool["function"]) and (
            reason := why_unusable(arguments_schema(tool["function"]["parameters"]))
        ):
            raise _bad_tool(chat, tool, "no grammar can force a call of", reason)


def _bad_tool(chat: ChatInput, tool: Json, problem: str, reason: str) -> ApiError:
    field = f"tools[{chat.tools.index(tool)}]"
    return bad_request(f"{field}: {problem} {tool['function']['name']!r}: {reason}", field)


def _role_known(message: Json) -> Json:
    """Renames roles that templates do not know: OpenAI's newer "developer", and its older "function"."""
    role = message["role"]
    return {**message, "role": {"developer": "system", "function": "tool"}.get(role, role)}


def _encode(runtime: Runtime, messages: list[Json], given: list[Json] | None, chat: ChatInput) -> Tokens:
    ends = {"add_generation_prompt": chat.generates, "continue_final_message": chat.continues}
    prompt = runtime.render(messages, given, **chat.variables, **ends)
    if not prompt.ids:
        raise bad_request("messages: the chat template makes an empty prompt of them", "messages")
    return prompt


def _marked_by_control_token(runtime: Runtime, reading: Reading, taught: Format) -> bool:
    """Whether reading needs a control token. A format whose calls may also be bare does not."""
    assert runtime.tokenizer is not None
    tokenizer, special = runtime.tokenizer, runtime.tokenizer.special_ids
    marks = [tag.opens for tag in taught.tags] if reading.tools and not taught.bare else []
    marks += [] if reading.reasoning is None else [reading.reasoning.opens, reading.reasoning.closes]
    return any(token in special for mark in marks for token in tokenizer.encode(mark, add_special=False))
