"""/v1/responses: OpenAI's newer API, without stored state. Clients send the whole conversation each time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.server.api.common import caller_of, generate, new_id, openai_error, state_of
from octavo.server.api.responses_in import to_messages
from octavo.server.api.responses_render import ResponsesRenderer
from octavo.server.api.schemas import MOST, Priority, Seconds, Share
from octavo.server.api.unsupported import REASONS, RESPONSES, UnsupportedInResponses, refuse
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.prompt import ChatInput, ChatPrompt, make_chat_prompt, template_variables
from octavo.server.generation.streaming import GenerationResponse, Renderer
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request
from octavo.server.http.openapi import describe
from octavo.server.settings import Limits
from octavo.types import Json

router = APIRouter()


class TextFormat(Struct, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    schema: Json | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(Struct, omit_defaults=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseTool(Struct, omit_defaults=True):
    type: Literal["function"]
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+$")]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class NamedResponseTool(Struct):
    type: Literal["function"]
    name: str


class ReasoningOptions(Struct, omit_defaults=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None


class ResponseRequest(UnsupportedInResponses, kw_only=True):
    """input: a text, or items of type message, function_call and function_call_output."""

    input: str | list[Json]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedResponseTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    priority: Priority | None = None
    timeout: Seconds | None = None


class InputTokensDetails(Struct):
    cached_tokens: int


class OutputTokensDetails(Struct):
    reasoning_tokens: int


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseAnswer(Struct):
    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[Json]
    usage: ResponseUsage | None


@router.post("/v1/responses", **describe(ResponseRequest, ResponseAnswer, stream=True))
async def create(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, ResponseRequest, state.settings.limits)
    chat_input = to_chat_input(body, state.settings.limits)
    caller = caller_of(request, body.timeout, body.priority)

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(body.model, caller.remaining) as runtime:
            chat = await make_chat_prompt(runtime, chat_input)
            params = params_of(body, chat)
            job = generate(request, runtime, caller, new_id("resp_"), body.model, [chat.prompt], params, inbox)
            async with job as made:
                yield ResponsesRenderer(made, chat.reading, echo(body))

    forced = body.tool_choice not in (None, "none", "auto")
    names = {
        "prompt": "input",
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "structured_outputs": "tools" if forced else "text.format",
    }
    return GenerationResponse(state, begin, bool(body.stream), openai_error, names)


def to_chat_input(body: ResponseRequest, limits: Limits) -> ChatInput:
    """Converts a body to the common form of a chat. Raises ApiError."""
    refuse(body, reasons=RESPONSES)
    if body.text is not None:
        refuse(body.text, reasons={"verbosity": REASONS["verbosity"]}, within="text.")
    if body.previous_response_id is not None:
        raise bad_request("previous_response_id: nothing is stored here; send all items", "previous_response_id")
    if body.background:
        raise bad_request("background is not supported", "background")
    if len(body.input) > limits.messages and not isinstance(body.input, str):
        raise bad_request(f"input: at most {limits.messages} items may be sent; got {len(body.input)}", "input")
    choice = body.tool_choice or "auto"
    tools = [{"type": "function", "function": _function(tool)} for tool in body.tools or ()]
    name = choice.name if isinstance(choice, NamedResponseTool) else choice
    messages = to_messages(body.input, body.instructions)
    effort = body.reasoning.effort if body.reasoning else None
    parallel, variables = body.parallel_tool_calls is not False, template_variables(None, None, effort)
    structured = body.text is not None and _structure(body.text.format) is not None
    return ChatInput(messages, tools, name, parallel, variables, structured=structured)


def _function(tool: ResponseTool) -> Json:
    return {key: value for key, value in msgspec.to_builtins(tool).items() if key != "type"}


def params_of(body: ResponseRequest, chat: ChatPrompt) -> SamplingParams:
    given: dict[str, Any] = {
        name: value for name in ("temperature", "top_p") if (value := getattr(body, name)) is not None
    }
    wanted = _structure(body.text.format if body.text else None)
    if wanted is not None and chat.structure is not None:
        raise bad_request("text.format and a tool_choice that forces a call contradict", "tool_choice")
    return SamplingParams(
        max_tokens=body.max_output_tokens,
        structured_outputs=wanted or chat.structure,
        skip_special_tokens=not chat.keep_special,
        **given,
    )


def _structure(wanted: TextFormat | None) -> StructuredOutputs | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return StructuredOutputs(json_object=True)
    if wanted.schema is None:
        raise bad_request("text.format: json_schema needs a schema", "text.format.schema")
    return StructuredOutputs(json=wanted.schema)


def echo(body: ResponseRequest) -> Json:
    """The fields of the request that a response repeats."""
    choice = body.tool_choice or "auto"
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": msgspec.to_builtins(body.reasoning) if body.reasoning else {},
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": msgspec.to_builtins(body.text) if body.text else {"format": {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else msgspec.to_builtins(choice),
        "tools": [msgspec.to_builtins(tool) for tool in body.tools or ()],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
    }
