"""Ollama's /api/chat and /api/generate."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.processing.inputs import Tokens
from octavo.server.api.chat import plain
from octavo.server.api.common import caller_of, generate, new_id, state_of
from octavo.server.api.completions import encode
from octavo.server.api.ollama.models import can_think, resolve_name
from octavo.server.api.ollama.render import OllamaRenderer, loaded
from octavo.server.api.ollama.schemas import (
    NAMES,
    ChatMessage,
    Input,
    OllamaChatAnswer,
    OllamaChatRequest,
    OllamaError,
    OllamaGenerateAnswer,
    OllamaGenerateRequest,
    error_body,
    sampling,
)
from octavo.server.generation.fill import fill_tokens, until_filled
from octavo.server.generation.inbox import Inbox
from octavo.server.generation.prompt import ChatInput, ChatPrompt, make_chat_prompt
from octavo.server.generation.streaming import NDJSON, GenerationResponse, Renderer
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request
from octavo.server.http.openapi import describe
from octavo.server.runtime import Runtime
from octavo.types import Json

router = APIRouter()
MakePrompt = Callable[[Runtime], Awaitable[ChatPrompt]]


@router.post("/api/chat", **describe(OllamaChatRequest, OllamaChatAnswer, errors=OllamaError, lines=True))
async def chat(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, OllamaChatRequest, state.settings.limits, any_type=True)
    if len(body.messages) > state.settings.limits.messages:
        raise bad_request(f"messages: at most {state.settings.limits.messages} may be sent", "messages")
    if not body.messages:
        return await _load(request, body, chat=True)
    messages = [_to_openai(message) for message in body.messages]
    tools = [plain(tool) for tool in body.tools or ()]
    last = body.messages[-1]
    continues = last.role == "assistant" and not last.tool_calls  # as Ollama's own templates
    variables, structured = _variables(body), bool(body.format)
    chat_input = ChatInput(messages, tools, variables=variables, continues=continues, structured=structured)
    return _answer(request, body, lambda runtime: make_chat_prompt(runtime, chat_input), chat=True)


@router.post("/api/generate", **describe(OllamaGenerateRequest, OllamaGenerateAnswer, errors=OllamaError, lines=True))
async def complete(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, OllamaGenerateRequest, state.settings.limits, any_type=True)
    if body.images:
        raise _no_images()
    if body.template:
        raise bad_request("template cannot be set by a request: start the server with --chat-template", "template")
    if not body.prompt and not body.suffix:
        return await _load(request, body, chat=False)
    return _answer(request, body, partial(_generate_prompt, body=body), chat=False)


async def _load(request: Request, body: Input, chat: bool) -> Response:
    pool = state_of(request).pool
    async with pool.use(resolve_name(pool, body.model)) as runtime:
        return Response(sse.encode(loaded(body.model or runtime.name, chat)), media_type="application/json")


def _answer(request: Request, body: Input, make_prompt: MakePrompt, chat: bool) -> Response:
    state, params, caller = state_of(request), sampling(body), caller_of(request)
    started = time.monotonic()
    generating = body if isinstance(body, OllamaGenerateRequest) else None

    @contextlib.asynccontextmanager
    async def begin(inbox: Inbox) -> AsyncIterator[Renderer]:
        async with state.pool.use(resolve_name(state.pool, body.model), caller.remaining) as runtime:
            ready = time.monotonic()
            if body.think and not can_think(runtime):
                raise bad_request(f'"{body.model or runtime.name}" does not support thinking', "think")
            prompt = await make_prompt(runtime)
            wanted = dataclasses.replace(params, skip_special_tokens=not prompt.keep_special)
            if generating is not None and generating.suffix:
                wanted = until_filled(wanted, fill_tokens(runtime, "suffix"))
            job = generate(request, runtime, caller, new_id("ollama-"), body.model, [prompt.prompt], wanted, inbox)
            async with job as made:
                with_context = generating is not None and not generating.raw
                yield OllamaRenderer(made, chat, prompt.reading, params.logprobs, with_context, started, ready)

    names = {**NAMES, "prompt": "messages" if chat else "prompt"}
    return GenerationResponse(state, begin, body.stream is not False, error_body, names, NDJSON)


async def _generate_prompt(runtime: Runtime, body: OllamaGenerateRequest) -> ChatPrompt:
    """The prompt in the chat template, if the model has one; before it, the tokens of an earlier answer."""
    if body.suffix or body.raw or not runtime.has_template:
        if body.system and not body.raw:
            raise bad_request("system needs a chat template, which is not used here: put it into the prompt", "system")
        (made,) = await encode(runtime, [body.prompt], body.suffix or None)
        prompt = ChatPrompt(made)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": body.prompt}]
        prompt = await make_chat_prompt(
            runtime, ChatInput(messages, variables=_variables(body), structured=bool(body.format))
        )
    if not body.context:
        return prompt
    return dataclasses.replace(prompt, prompt=Tokens([*body.context, *prompt.prompt.ids]))


def _variables(body: Input) -> Json:
    """Variables for the chat template."""
    effort = {"reasoning_effort": body.think} if isinstance(body.think, str) else {}
    return {} if body.think is None else {"enable_thinking": bool(body.think), **effort}


def _to_openai(message: ChatMessage) -> Json:
    if message.images:
        raise _no_images()
    made: Json = {"role": message.role, "content": message.content or ""}
    if message.thinking is not None:
        made["reasoning_content"] = message.thinking
    if message.tool_calls is not None:
        made["tool_calls"] = [{"type": "function", "function": plain(call.function)} for call in message.tool_calls]
    if message.tool_name is not None:
        made["name"] = message.tool_name
    return made


def _no_images() -> Exception:
    return bad_request("images: models here read text only", "images")
