"""Pools the hidden states of a prompt's tokens, which arrive step by step, into one vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octavo.errors import RequestError
from octavo.outputs import RequestOutput
from octavo.sampling_params import PoolingParams
from octavo.types import F32, F64, Request, SequenceDelta

MODES = ("mean", "last", "cls")
DEFAULT = "mean"  # of models whose files do not say


class Pooling:
    """The pooled requests of one engine. Hidden states are taken out of the deltas; the last delta gets the vector."""

    def __init__(self) -> None:
        self._poolers: dict[str, HiddenStatePooler] = {}

    def add(self, request: Request) -> None:
        """Must be called for every request that the engine takes. Requests without pooling are ignored."""
        if request.pooling is not None:
            self._poolers[request.request_id] = HiddenStatePooler(request.pooling)

    def collect(self, deltas: list[SequenceDelta]) -> list[SequenceDelta]:
        """Returns the deltas to pass on. A pooled request passes only its last, with `pooled` set unless it failed."""
        return [delta for delta in deltas if self._passes(delta)] if self._poolers else deltas

    def _passes(self, delta: SequenceDelta) -> bool:
        if (pooler := self._poolers.get(delta.request_id)) is None:
            return True
        if delta.hidden is not None:
            pooler.add(delta.hidden)
            delta.hidden = None
        if not delta.finished:
            return False
        del self._poolers[delta.request_id]
        if delta.finish_reason == "stop":
            delta.pooled = pooler.vector()
        return True


class HiddenStatePooler:
    """Pools one prompt. mode: "mean" over all tokens, or the state of the "last" token or of the first ("cls").

    The mean is summed in float64, token by token, so that it does not depend on the chunks of the prefill.
    """

    def __init__(self, mode: str):
        self._mode = mode
        self._sum: F64 = np.zeros(0)
        self._count = 0

    def add(self, hidden: F32) -> None:
        """hidden: [tokens, D], the next tokens' states in order."""
        for row in hidden.astype(np.float64):
            if self._count == 0 or self._mode == "last":
                self._sum = row
            elif self._mode == "mean":
                self._sum = self._sum + row
            self._count += 1

    def vector(self) -> F64:
        """Returns the pooled vector: [D]."""
        return self._sum / self._count if self._mode == "mean" else self._sum


def choose(wanted: object, stated: str | None) -> str:
    """The pooling of a request. wanted: what it asks for. stated: what the model's file says (`weights.pooling`).

    Raises RequestError for what is not supported.
    """
    mode = wanted or stated or DEFAULT
    if not isinstance(mode, str) or mode not in MODES:
        who = f"pooling {mode!r:.60}" if wanted else f"this model's pooling ({mode})"
        raise RequestError(f"{who} is not supported: pooling must be {', '.join(MODES[:-1])} or {MODES[-1]}", "pooling")
    return mode


def settle(
    pooling: str | PoolingParams | None,
    params: PoolingParams | None,
    dimensions: int | None,
    normalize: bool,
    stated: str | None,
    size: int,
) -> PoolingParams:
    """The parameters of a call, without a None that means "as usual".

    pooling: a mode, or the parameters, which `params` gives too. dimensions: instead of that of the parameters.
    normalize: what the method that is called usually does. stated, size: see `choose` and `check_dimensions`.
    Raises RequestError.
    """
    if isinstance(pooling, PoolingParams) and params is None:
        pooling, params = None, pooling
    params = PoolingParams() if params is None else params
    if not isinstance(params, PoolingParams):
        raise RequestError(f"pooling_params must be PoolingParams, not {type(params).__name__}", "pooling_params")
    if params.normalize is not None and not isinstance(params.normalize, bool):
        raise RequestError(f"normalize must be True, False or None; got {params.normalize!r:.60}", "normalize")
    dimensions = params.dimensions if dimensions is None else dimensions
    check_dimensions(dimensions, size)
    return replace(
        params,
        pooling=choose(params.pooling if pooling is None else pooling, stated),
        normalize=normalize if params.normalize is None else params.normalize,
        dimensions=dimensions,
    )


def pooled_vector(output: RequestOutput, normalize: bool, dimensions: int | None = None) -> F32:
    """Returns a pooled request's vector: [D], of length 1 if `normalize`. Raises RequestError if it failed.

    dimensions: keep so many of the first values, which embedding models of the Matryoshka kind allow (2205.13147).
    """
    if output.pooled is None:
        reason = output.outputs[0].finish_reason
        raise RequestError(f"the prompt could not be embedded: its request ended with {reason!r}", "prompt")
    pooled = output.pooled[:dimensions]
    length = float(np.linalg.norm(pooled)) if normalize else 1.0
    return np.asarray(pooled / (length or 1.0), np.float32)


def check_dimensions(dimensions: int | None, size: int) -> None:
    """size: values of the model's own vectors. Raises RequestError."""
    whole = isinstance(dimensions, int) and not isinstance(dimensions, bool)
    if dimensions is not None and not (whole and 1 <= dimensions <= size):
        raise RequestError(f"dimensions must be from 1 to {size}, the model's own; got {dimensions!r}", "dimensions")
