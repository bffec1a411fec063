"""/v1/messages: Anthropic's API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.server.api.common import caller_of, generate, new_id, state_of
from octavo.server.api.messages_in import to_openai, tools_in
from octavo.server.api.messages_render import MessagesRenderer
from octavo.server.api.schemas import MOST, Priority, Seconds, Share
from octavo.server.api.unsupported import (
    MESSAGES,
    OUTPUT_CONFIG,
    UnsupportedInMessages,
    UnsupportedInOutputConfig,
    refuse,
)
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.prompt import ChatInput, ChatPrompt, make_chat_prompt, template_variables
from octavo.server.generation.streaming import GenerationResponse, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import ApiError, bad_request
from octavo.server.http.openapi import describe
from octavo.server.settings import Limits
from octavo.types import Json

router = APIRouter()
PATH = "/v1/messages"
FORMAT = "output_config.format"
KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicMessage(Struct):
    """content: a text, or blocks of type "text", "tool_use" and "tool_result"."""

    role: Literal["user", "assistant"]
    content: str | list[Json]


class AnthropicTool(Struct, omit_defaults=True):
    """A tool of the client's. Anthropic's own, such as web search, have other types."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+$")]
    input_schema: Json
    description: str | None = None
    type: Literal["custom"] | None = None


class AnthropicToolChoice(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicThinking(Struct):
    """Whether the model may reason first, if its chat template has a switch for it. budget_tokens has no effect."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class AnthropicFormat(Struct):
    type: Literal["json_schema"]
    schema: Json


class OutputConfig(UnsupportedInOutputConfig, kw_only=True, forbid_unknown_fields=True):
    """format: the answer is JSON that follows the schema. effort: of reasoning, if the chat template knows it."""

    format: AnthropicFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(UnsupportedInMessages, kw_only=True):
    """output_format: an older name of output_config.format."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Json] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None
    output_config: OutputConfig | None = None
    output_format: AnthropicFormat | None = None


class MessagesRequest(CountRequest, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1, le=MOST)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] | None = None
    priority: Priority | None = None
    timeout: Seconds | None = None


class AnthropicUsage(Struct):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class AnthropicAnswer(Struct):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Json]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class AnthropicErrorDetail(Struct):
    type: str
    message: str


class AnthropicError(Struct):
    type: Literal["error"]
    error: AnthropicErrorDetail


class TokenCount(Struct):
    input_tokens: int


@router.post(PATH, **describe(MessagesRequest, AnthropicAnswer, stream=True, errors=AnthropicError))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, MessagesRequest, state.settings.limits)
    chat_input = to_chat_input(body, state.settings.limits)
    caller = caller_of(request, body.timeout, body.priority)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            chat = await make_chat_prompt(runtime, chat_input)
            params = params_of(body, chat)
            job = generate(request, runtime, caller, new_id("msg_"), body.model, [chat.prompt], params, inbox)
            async with job as made:
                yield MessagesRenderer(made, chat.reading, error_body)

    constrained = FORMAT if chat_input.structured else "tools"
    names = {"prompt": "messages", "structured_outputs": constrained, "stop": "stop_sequences"}
    return GenerationResponse(state, begin, bool(body.stream), error_body, names)


@router.post(f"{PATH}/count_tokens", **describe(CountRequest, TokenCount, errors=AnthropicError))
async def count(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, CountRequest, state.settings.limits)
    chat_input = to_chat_input(body, state.settings.limits)
    async with state.pool.use(body.model) as runtime:
        chat = await make_chat_prompt(runtime, chat_input)
    return Response(sse.encode(TokenCount(len(chat.prompt.ids))), media_type="application/json")


def to_chat_input(body: CountRequest, limits: Limits) -> ChatInput:
    """Converts a body to the common form of a chat. The answer continues a last message of the assistant.

    Raises ApiError.
    """
    refuse(body, reasons=MESSAGES)
    if body.output_config is not None:
        refuse(body.output_config, reasons=OUTPUT_CONFIG, within="output_config.")
    if len(body.messages) > limits.messages:
        raise bad_request(f"messages: at most {limits.messages} may be sent; got {len(body.messages)}", "messages")
    messages = [msgspec.to_builtins(message) for message in body.messages]
    choice, parallel = "auto", True
    if (given := body.tool_choice) is not None:
        if given.type == "tool" and not given.name:
            raise bad_request("tool_choice: the tool's name is needed", "tool_choice")
        choice = {"auto": "auto", "any": "required", "none": "none", "tool": given.name or ""}[given.type]
        parallel = not given.disable_parallel_tool_use
    tools = [msgspec.to_builtins(tool) for tool in body.tools or ()]
    thinks = None if body.thinking is None else body.thinking.type != "disabled"
    return ChatInput(
        to_openai(messages, body.system),
        tools_in(tools),
        choice,
        parallel,
        template_variables(None, thinks, None if body.output_config is None else body.output_config.effort),
        continues=body.messages[-1].role == "assistant",
        structured=_structure(body) is not None,
    )


def params_of(body: MessagesRequest, chat: ChatPrompt) -> SamplingParams:
    given: dict[str, Any] = {
        name: value for name in ("temperature", "top_p", "top_k") if (value := getattr(body, name)) is not None
    }
    wanted = _structure(body)
    if wanted is not None and chat.structure is not None:
        raise bad_request(f"{FORMAT} and a tool_choice that forces a call contradict", "tool_choice")
    return SamplingParams(
        max_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences or ()),
        structured_outputs=wanted or chat.structure,
        skip_special_tokens=not chat.keep_special,
        **given,
    )


def _structure(body: CountRequest) -> StructuredOutputs | None:
    given = [body.output_format, None if body.output_config is None else body.output_config.format]
    stated = [each for each in given if each is not None]
    if len(stated) > 1:
        raise bad_request(f"give only one of {FORMAT} and output_format", "output_format")
    return StructuredOutputs(json=stated[0].schema) if stated else None


def error_body(error: ApiError) -> bytes:
    """Encodes an error in Anthropic's format."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return sse.encode({"type": "error", "error": {"type": kind, "message": error.message}})
