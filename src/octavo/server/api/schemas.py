"""The request fields that all generation APIs take, and the response parts that several APIs share.

msgspec decodes bodies to these types. A field with a wrong type or out of range is a 400 that names the field.
Unknown fields are ignored, because OpenAI's clients send many; `unsupported` lists those that are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from octavo.sampling.params import MAX_ANSWERS, MAX_LOGPROBS
from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.server.api.unsupported import Unsupported, UnsupportedStructure, refuse
from octavo.server.generation.job import GenerationJob
from octavo.server.http.errors import bad_request
from octavo.types import Json
from octavo.unsupported import STRUCTURED

MOST = 2**31 - 1
Count = Annotated[int, Meta(ge=0, le=MOST)]
Temperature = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Answers = Annotated[int, Meta(ge=1, le=MAX_ANSWERS)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Priority = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)]
Truncation = Annotated[int, Meta(ge=-1, le=MOST)]  # keeps the last tokens of a prompt; -1: as many as fit
TokenId = Annotated[int, Meta(ge=0, le=MOST)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]


class Structure(UnsupportedStructure, kw_only=True, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`. disable_fallback has no effect: there is one implementation."""

    json: str | Json | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_fallback: bool | None = None


class JsonSchema(Struct):
    schema: Json | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Controls(Unsupported, kw_only=True):
    """Sampling and scheduling parameters with OpenAI's and vLLM's names. null means the default."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Share | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Truncation | None = None
    kv_eviction: Annotated[str, Meta(max_length=100)] | None = None
    structured_outputs: Structure | None = None
    response_format: ResponseFormat | None = None
    guided_json: str | Json | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    n: Answers | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Priority | None = None
    timeout: Seconds | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


SAME_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
    "truncate_prompt_tokens",
    "kv_eviction",
    "n",
)

GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


def sampling(body: Controls, **more: Any) -> SamplingParams:
    """Converts a body to SamplingParams; `more` overrides its fields. Ranges are checked later. Raises ApiError."""
    given = {name: value for name in SAME_NAMES if (value := getattr(body, name)) is not None}
    if body.stop is not None:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.logit_bias is not None:
        given["logit_bias"] = {_token_id(key): value for key, value in body.logit_bias.items()}
    return SamplingParams(**{"structured_outputs": structure(body), **given, **more})


def _token_id(key: str) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 10:
        raise bad_request(f"logit_bias: {key[:20]!r} is not a token id", "logit_bias")
    return int(key)


def structure(body: Controls) -> StructuredOutputs | None:
    """The constraint on the answer from any of its three fields. Raises ApiError if several are set."""
    guided = {name.removeprefix("guided_"): getattr(body, name) for name in GUIDED}
    wanted = [
        None if body.structured_outputs is None else _from_structure(body.structured_outputs),
        guided if any(value is not None for value in guided.values()) else None,
        _from_response_format(body.response_format),
    ]
    stated = [each for each in wanted if each is not None]
    if not stated:
        return None
    if len(stated) > 1:
        raise bad_request("give only one of response_format, structured_outputs and guided_*", "response_format")
    fields = stated[0] | {"json_object": bool(stated[0].get("json_object"))}
    choice = fields.get("choice")
    return StructuredOutputs(**fields | {"choice": None if choice is None else tuple(choice)})


def structure_field(body: Controls) -> str:
    """The name of the field in which `structure` finds the constraint."""
    if body.response_format is not None and body.response_format.type != "text":
        return "response_format"
    guided = [name for name in GUIDED if getattr(body, name) is not None]
    return guided[0] if guided else "structured_outputs"


def _from_structure(wanted: Structure) -> Json:
    refuse(wanted, reasons=STRUCTURED, within="structured_outputs.")
    return {name: getattr(wanted, name) for name in ("json", "json_object", "regex", "choice", "grammar")}


def _from_response_format(wanted: ResponseFormat | None) -> Json | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"json_object": True}
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise bad_request("response_format: json_schema must have a schema", "response_format")
    return {"json": wanted.json_schema.schema}


class PromptTokensDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_of(job: GenerationJob) -> Usage:
    prompt, completion = job.num_prompt_tokens, job.num_output_tokens
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(job.num_cached_tokens))
