"""Bodies and answers of Ollama's API, and its options as sampling parameters. Durations are in nanoseconds.

Source: docs/api.md and docs/modelfile.md of Ollama. Options of the machine (num_ctx, num_gpu, num_thread, ...) and
`keep_alive` are accepted and have no effect: the settings of the server decide what they would.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.server.api.chat import ToolFunction
from octavo.server.api.schemas import MOST, Penalty, Seed, Share, TopLogprobs
from octavo.server.http import sse
from octavo.server.http.errors import ApiError, bad_request
from octavo.types import Json

PATH = "/api/"
LATEST = ":latest"  # the tag of a name without one


# Ollama reads numbers as floats, and drops what is behind the point.
Whole = Annotated[int, Meta(ge=-2, le=MOST)] | Annotated[float, Meta(ge=-2, le=MOST)]


class Options(Struct, kw_only=True):
    """num_predict: most tokens; 0, -1 and -2: until the model ends. seed: -1 draws one. top_p: 0 is greedy.

    null is a default: Ollama's, in DEFAULTS.
    """

    num_predict: Whole | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: Whole | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Share | None = None
    seed: Seed | Annotated[float, Meta(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_last_n: Whole | None = None
    mirostat: Whole | None = None
    tfs_z: float | None = None


DEFAULTS: Json = {
    "num_predict": -1,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "seed": -1,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repeat_last_n": -1,
    "mirostat": 0,
    "tfs_z": 1.0,
}


class OllamaTool(Struct):
    function: ToolFunction
    type: Literal["function"] = "function"


class Input(Struct, kw_only=True):
    """What /api/chat and /api/generate share. format: "json", or a JSON schema."""

    model: str | None = None
    format: Literal["json", ""] | Json | None = None
    options: Options | None = None
    stream: bool | None = None
    keep_alive: str | float | None = None
    think: bool | Literal["high", "medium", "low"] | None = None
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
    tools: list[OllamaTool] | None = None


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
    given = DEFAULTS | {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    if given["mirostat"]:
        raise bad_request("options.mirostat must be 0: use temperature, top_p or min_p", "options.mirostat")
    if given["tfs_z"] != 1:
        raise bad_request("options.tfs_z must be 1: use top_p, min_p or typical_p", "options.tfs_z")
    most, top_k, seed = (int(given[name]) for name in ("num_predict", "top_k", "seed"))
    return SamplingParams(
        max_tokens=None if most <= 0 else most,
        temperature=given["temperature"],
        top_k=top_k if given["top_p"] else 1,
        top_p=given["top_p"] or 1.0,
        min_p=given["min_p"],
        typical_p=given["typical_p"],
        seed=None if seed == -1 else seed,
        stop=(options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ()),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        structured_outputs=_structure(body.format),
        **_penalties(given),
    )


def _penalties(given: Json) -> Json:
    """repeat_last_n: 0 switches penalties off. They count all tokens here, so any other window is refused."""
    penalties = {
        "repetition_penalty": given["repeat_penalty"],
        "presence_penalty": given["presence_penalty"],
        "frequency_penalty": given["frequency_penalty"],
    }
    if penalties == {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}:
        return {}
    if given["repeat_last_n"] not in (-1, 0):
        raise bad_request(
            f"options.repeat_last_n must be -1 or 0: penalties count all tokens; got {given['repeat_last_n']}",
            "options.repeat_last_n",
        )
    return {} if given["repeat_last_n"] == 0 else penalties


def _structure(format: str | Json | None) -> StructuredOutputs | None:
    if not format:
        return None
    return StructuredOutputs(json_object=True) if isinstance(format, str) else StructuredOutputs(json=format)
