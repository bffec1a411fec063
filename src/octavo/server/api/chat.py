"""/v1/chat/completions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from octavo.sampling_params import SamplingParams
from octavo.server.api.best_of import check_best_of
from octavo.server.api.chat_render import ChatRenderer
from octavo.server.api.common import caller_for, check_answers, generate, new_id, openai_error, state_of
from octavo.server.api.schemas import Answers, Controls, Count, TopLogprobs, Usage, sampling, structure, structure_field
from octavo.server.api.unsupported import refuse
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.prompt import ChatInput, ChatPrompt, make_chat_prompt, template_variables
from octavo.server.generation.streaming import GenerationResponse, Renderer
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request
from octavo.server.http.openapi import describe
from octavo.server.settings import Limits
from octavo.types import Json

router = APIRouter()


class Message(Struct, omit_defaults=True):
    """A message in OpenAI's format. content: a text, or parts of type "text"."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Json] | None = None
    name: str | None = None
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = None
    function_call: Json | None = None  # the older form of tool_calls
    reasoning_content: str | None = None
    reasoning: str | None = None  # a newer name of reasoning_content


class ToolFunction(Struct, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+$")]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(Struct):
    name: str


class NamedTool(Struct):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Controls, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    best_of: Answers | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Json | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Struct):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: ChatMessage
    logprobs: Json | None
    finish_reason: str | None
    stop_reason: int | str | None


class ChatCompletion(Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


@router.post("/v1/chat/completions", **describe(ChatRequest, ChatCompletion, stream=True))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, ChatRequest, state.settings.limits)
    check(body, state.settings.limits)
    caller = caller_for(request, body)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            chat = await make_chat_prompt(runtime, to_chat_input(body))
            params = params_of(body, chat)
            job = generate(request, runtime, caller, new_id("chatcmpl-"), body.model, [chat.prompt], params, inbox)
            async with job as made:
                shows = body.include_reasoning is not False
                yield ChatRenderer(made, body.n or 1, chat.reading, top_logprobs(body), body.with_usage, shows)

    return GenerationResponse(state, begin, bool(body.stream), openai_error, names(body))


def names(body: ChatRequest) -> dict[str, str]:
    """Maps our field names to those of this API, for errors."""
    forced = body.tool_choice not in (None, "none", "auto")
    most = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    return {
        "prompt": "messages",
        "max_tokens": most,
        "structured_outputs": "tools" if forced else structure_field(body),
    }


def check(body: ChatRequest, limits: Limits) -> None:
    """Raises ApiError for mistakes that the types cannot express."""
    refuse(body)
    check_answers(body.n, limits.answers)
    check_best_of(body.best_of, body.n, body.stream, limits.answers)
    if len(body.messages) > limits.messages:
        raise bad_request(f"messages: at most {limits.messages} may be sent; got {len(body.messages)}", "messages")
    if body.continue_final_message and body.add_generation_prompt:
        raise bad_request(
            "continue_final_message and add_generation_prompt cannot both be true: an answer continues the last "
            "message or begins a new one",
            "continue_final_message",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")


def to_chat_input(body: ChatRequest) -> ChatInput:
    """Converts a body to the common form of a chat. Raises ApiError."""
    choice = body.tool_choice or "auto"
    return ChatInput(
        [plain_message(message) for message in body.messages],
        [plain(tool) for tool in body.tools or ()],
        choice.function.name if isinstance(choice, NamedTool) else choice,
        body.parallel_tool_calls is not False,
        template_variables(body.chat_template_kwargs, body.enable_thinking, body.reasoning_effort),
        body.add_generation_prompt is not False,
        bool(body.continue_final_message),
        structure(body) is not None,
    )


def plain(value: Struct) -> Json:
    """Converts a struct to JSON objects for templates. Fields that were not given are left out."""
    made: Json = msgspec.to_builtins(value)
    return made


def plain_message(message: Message) -> Json:
    """Converts a message for templates. Older and newer names of its fields become those that templates know."""
    made = {"content": "", **plain(message)}
    if call := made.pop("function_call", None):
        made.setdefault("tool_calls", [{"type": "function", "function": call}])
    if reasoning := made.pop("reasoning", None):
        made.setdefault("reasoning_content", reasoning)
    return made


def params_of(body: ChatRequest, chat: ChatPrompt) -> SamplingParams:
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    more: Json = {"max_tokens": most, "logprobs": top_logprobs(body)}
    if body.best_of is not None:
        more |= {"n": body.best_of, "logprobs": more["logprobs"] or 0}  # answers are compared by their logprobs
    if chat.structure is not None:
        if structure(body) is not None:
            raise bad_request("response_format and a tool_choice that forces a call contradict", "tool_choice")
        more["structured_outputs"] = chat.structure
    if chat.keep_special:
        more["skip_special_tokens"] = False
    return sampling(body, **more)


def top_logprobs(body: ChatRequest) -> int | None:
    return (body.top_logprobs or 0) if body.logprobs else None
