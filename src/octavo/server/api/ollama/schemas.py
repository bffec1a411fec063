"""Bodies and answers of Ollama's API, and its options as sampling parameters. Durations are in nanoseconds.

Source: docs/api.md and docs/modelfile.md of Ollama. Options of the machine (num_ctx, num_gpu, num_thread, ...) and
`keep_alive` are accepted and have no effect: the settings of the server decide what they would.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from octavo.server.api.chat import Tool
from octavo.server.api.schemas import MOST, Penalty, Seed, Share, TopLogprobs
from octavo.server.http import sse
from octavo.server.http.errors import ApiError, bad_request
from octavo.types import Json, SamplingParams, StructuredOutputs

PATH = "/api/"
LATEST = ":latest"  # the tag of a name without one


class Options(Struct, kw_only=True):
    """num_predict: most tokens; -1 and -2: until the model ends. seed: -1 draws one. Defaults are Ollama's."""

    num_predict: Annotated[int, Meta(ge=-2, le=MOST)] = -1
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] = 40
    top_p: Share = 0.9
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    typical_p: Share = 1.0
    seed: Seed = -1
    stop: str | list[str] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repeat_last_n: Annotated[int, Meta(ge=-1, le=MOST)] | None = None
    mirostat: int = 0
    tfs_z: float = 1.0


class Input(Struct, kw_only=True):
    """What /api/chat and /api/generate share. format: "json", or a JSON schema."""

    model: str | None = None
    format: Literal["json", ""] | Json | None = None
    options: Options | None = None
    stream: bool | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None


class CalledFunction(Struct):
    name: str
    arguments: Json = {}


class Called(Struct):
    function: CalledFunction


class ChatMessage(Struct, kw_only=True, omit_defaults=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[Called] | None = None
    tool_name: str | None = None


class OllamaChatRequest(Input, kw_only=True):
    """Without messages it only loads the model."""

    messages: list[ChatMessage] = []
    tools: list[Tool] | None = None


class OllamaGenerateRequest(Input, kw_only=True):
    """raw: the prompt is not put into the chat template. context: token ids of an earlier answer, to go on from.

    suffix: what follows the answer, for fill-in-the-middle. Without a prompt it only loads the model.
    """

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Annotated[int, Meta(ge=0, le=MOST)]] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class Timed(Struct, kw_only=True):
    """The last part of a stream, or a whole answer."""

    model: str
    created_at: str
    done: bool
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[Json] | UnsetType = UNSET


class OllamaChatAnswer(Timed, kw_only=True):
    message: Json


class OllamaGenerateAnswer(Timed, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


class OllamaError(Struct):
    error: str


def error_body(error: ApiError) -> bytes:
    return sse.encode(OllamaError(error.message))


# Our names of fields, as Ollama's clients know them. For errors.
NAMES = {
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "structured_outputs": "format",
    "stop": "options.stop",
}


def sampling(body: Input) -> SamplingParams:
    """The parameters of a request. Raises ApiError that names an option which is not supported."""
    options = body.options or Options()
    if options.mirostat:
        raise bad_request("options.mirostat must be 0: use temperature, top_p or min_p", "options.mirostat")
    if options.tfs_z != 1:
        raise bad_request("options.tfs_z must be 1: use top_p, min_p or typical_p", "options.tfs_z")
    return SamplingParams(
        max_tokens=None if options.num_predict < 0 else options.num_predict,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        seed=None if options.seed == -1 else options.seed,
        stop=(options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ()),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        structured_outputs=_structure(body.format),
        **_penalties(options),
    )


def _penalties(options: Options) -> dict[str, Any]:
    """repeat_last_n: 0 switches penalties off. They count all tokens here, so any other window is refused."""
    penalties = {
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    if penalties == {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}:
        return {}
    if options.repeat_last_n not in (None, -1, 0):
        raise bad_request(
            f"options.repeat_last_n must be -1 or 0: penalties count all tokens; got {options.repeat_last_n}",
            "options.repeat_last_n",
        )
    return {} if options.repeat_last_n == 0 else penalties


def _structure(format: str | Json | None) -> StructuredOutputs | None:
    if not format:
        return None
    return StructuredOutputs(json_object=True) if isinstance(format, str) else StructuredOutputs(json=format)
