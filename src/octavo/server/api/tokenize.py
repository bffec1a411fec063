"""/tokenize, /detokenize and /tokenizer_info, in vLLM's format."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from octavo.server.api.chat import Message, Tool, plain, plain_message
from octavo.server.api.common import state_of
from octavo.server.api.schemas import TokenId
from octavo.server.generation.job import off_loop
from octavo.server.generation.prompt import ChatInput, make_chat_prompt, template_variables
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request
from octavo.server.http.openapi import describe
from octavo.server.runtime import Runtime
from octavo.types import Json

router = APIRouter()


class TokenizeRequest(Struct, kw_only=True):
    """Either `prompt`, or `messages` and `tools`, which the model's chat template renders."""

    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Json | None = None
    return_token_strs: bool | None = None


class Tokenized(Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Struct, kw_only=True):
    tokens: list[TokenId]
    model: str | None = None
    skip_special_tokens: bool | None = None


class Detokenized(Struct):
    prompt: str


class TokenizerInfo(Struct):
    """The fields of a tokenizer_config.json that this server knows. add_bos_token: prompts of texts begin with one."""

    tokenizer_class: str
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    add_bos_token: bool
    model_max_length: int
    vocab_size: int


@router.post("/tokenize", **describe(TokenizeRequest, Tokenized))
async def tokenize(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, TokenizeRequest, state.settings.limits)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("either prompt or messages is needed", "prompt")
    async with state.pool.use(body.model) as runtime:
        ids = await _ids(runtime, body)
        tokenizer = runtime.tokenizer
        assert tokenizer is not None
        token_strs = list(map(tokenizer.token_name, ids)) if body.return_token_strs else None
        return _json(Tokenized(len(ids), runtime.info.max_model_len, ids, token_strs))


async def _ids(runtime: Runtime, body: TokenizeRequest) -> list[int]:
    tokenizer, prompt = runtime.tokenizer, body.prompt
    assert tokenizer is not None
    if prompt is not None:
        special = body.add_special_tokens is not False
        return await off_loop(lambda: tokenizer.encode(prompt, add_special=special), len(prompt))
    chat_input = ChatInput(
        [plain_message(each) for each in body.messages or ()],
        [plain(each) for each in body.tools or ()],
        variables=template_variables(body.chat_template_kwargs),
        generates=body.add_generation_prompt is not False,
        continues=bool(body.continue_final_message),
    )
    chat = await make_chat_prompt(runtime, chat_input)
    return chat.prompt.ids


@router.post("/detokenize", **describe(DetokenizeRequest, Detokenized))
async def detokenize(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, DetokenizeRequest, state.settings.limits)
    async with state.pool.use(body.model) as runtime:
        tokenizer = runtime.tokenizer
        assert tokenizer is not None
        known = runtime.info.vocab_size
        if any(token >= known for token in body.tokens):
            raise bad_request(f"tokens must be token ids of this model, 0 to {known - 1}", "tokens")
        text = tokenizer.decode(body.tokens, skip_special=bool(body.skip_special_tokens))
        return _json(Detokenized(text))


@router.get("/tokenizer_info", **describe(None, TokenizerInfo, missing=True))
async def info(request: Request, model: str | None = None) -> Response:
    async with state_of(request).pool.use(model) as runtime:
        tokenizer = runtime.tokenizer
        assert tokenizer is not None
        bos, eos = tokenizer.bos_id, tokenizer.eos_ids[0] if tokenizer.eos_ids else None
        made = TokenizerInfo(
            "PreTrainedTokenizerFast",
            runtime.template if runtime.has_template else None,
            bos_token=None if bos is None else tokenizer.token_text(bos),
            eos_token=None if eos is None else tokenizer.token_text(eos),
            pad_token=None if eos is None else tokenizer.token_text(eos),
            bos_token_id=bos,
            eos_token_id=eos,
            add_bos_token=bool(tokenizer.prefix_ids),
            model_max_length=runtime.info.max_model_len,
            vocab_size=tokenizer.vocab_size,
        )
        return _json(made)


def _json(value: Struct) -> Response:
    return Response(sse.encode(value), media_type="application/json")
