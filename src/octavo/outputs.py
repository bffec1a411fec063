"""The outputs that users get. Names are vLLM's. Times are seconds of `time.monotonic()`."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from octavo.types import F32, F64


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log-probability under the model's own distribution. rank: 1 is the most likely."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


LogprobMap = dict[int, Logprob]  # one position: token id -> its logprob, the chosen token first


@dataclass(slots=True)
class CompletionOutput:
    """One answer. finish_reason: "stop", "length", "abort", "deadline" or "error"; None while it is generated.

    text: set when the answer has finished. Until then a stream gets its pieces as OutputDeltas.
    stop_reason: the stop string or stop token id that ended it; None for the end-of-sequence token.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[LogprobMap] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request. first_scheduled_time: the start of its first step; before that it waited."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers. prompt_logprobs: one entry per prompt token; None for the first, which has no context.

    pooled: [D], the vector of a pooled request: see `processing.pooling.pooled_vector`.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[LogprobMap | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int = 0
    pooled: F64 | None = None


class OutputDelta(msgspec.Struct, gc=False):  # one per token, and three times as fast to make as a dataclass
    """The new part of one answer since the last delta.

    `text` may lag behind `token_ids`: an incomplete character or the possible start of a stop string is held back.
    """

    request_id: str
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[LogprobMap] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PoolingOutput:
    data: F32  # [D]


@dataclass(frozen=True, slots=True, eq=False)
class PoolingRequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: PoolingOutput
    finished: bool = True


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: EmbeddingOutput
    finished: bool = True


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: ScoringOutput
    finished: bool = True
