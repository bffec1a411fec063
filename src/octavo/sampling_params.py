"""What a user asks of a request: how to choose tokens, when to stop, which form the text has.

Names and meanings are vLLM's.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo import unsupported


@unsupported.knows(unsupported.STRUCTURED)
@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """The required form of the text: exactly one field is set. json: a JSON schema. grammar: Lark, of llguidance's
    kind, or llama.cpp's GBNF."""

    json: str | dict[str, Any] | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None


StructuredOutputsParams = StructuredOutputs  # vLLM's name


class RequestOutputKind(enum.Enum):
    """What each output of `AsyncLLM.generate` holds: all text so far, what is new, or nothing before the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@unsupported.knows(unsupported.SAMPLING)
@dataclass(slots=True)
class SamplingParams:
    """How to choose tokens and when to stop; vLLM's names and meanings. Checked by `sampling.params.check`.

    Fields may be changed: a request gets a copy of them when it is made.
    Raises RequestError for a field of vLLM's that is not supported: `unsupported.SAMPLING`.

    temperature: 0 is greedy. top_k: 0 or -1 is off. top_p, typical_p: 1 is off. min_p: 0 is off.
    seed: the same seed gives the same tokens whatever else runs; None derives one from the engine's seed.
    max_tokens: None is "until the context is full".
    logprobs / prompt_logprobs: None is off, 0 is the chosen token only, n adds the n most likely.
    truncate_prompt_tokens: keep only the last tokens of the prompt; -1 keeps as many as fit with max_tokens.
    kv_eviction: the tokens that stay in the KV cache, in the form of `kv.eviction.parse`; None is the engine's setting.
    detokenize: False leaves the text empty, which saves its time; stop strings need it.
    output_kind: of `AsyncLLM` alone. spaces_between_special_tokens: has no effect, as in vLLM with a fast tokenizer.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputs | None = None
    truncate_prompt_tokens: int | None = None
    kv_eviction: str | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    spaces_between_special_tokens: bool = True
    detokenize: bool = True

    def clone(self) -> SamplingParams:
        """Returns a copy, which can be changed without changing these."""
        return copy.deepcopy(self)


@unsupported.knows(unsupported.POOLING)
@dataclass(slots=True)
class PoolingParams:
    """How a prompt becomes a vector; vLLM's names. Checked by `processing.pooling.settle`.

    dimensions: keep the first values only (Matryoshka embeddings). normalize: scale the vector to length 1.
    truncate_prompt_tokens: as in SamplingParams. pooling: "mean", "last" or "cls".
    None leaves each to the method that is called, or to the model's file.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: int | None = None
    pooling: str | None = None
