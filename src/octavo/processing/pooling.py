"""Pools the hidden states of a prompt's tokens, which arrive step by step, into one vector."""

from __future__ import annotations

import numpy as np

from octavo.errors import RequestError
from octavo.outputs import RequestOutput
from octavo.types import F32, F64, Request, SequenceDelta

MODES = ("mean", "last")


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
    """Pools one prompt. mode: "mean" over all tokens, or "last" for the last token's state.

    The mean is summed in float64, token by token, so that it does not depend on the chunks of the prefill.
    """

    def __init__(self, mode: str):
        self._mean = mode == "mean"
        self._sum: F64 = np.zeros(0)
        self._count = 0

    def add(self, hidden: F32) -> None:
        """hidden: [tokens, D], the next tokens' states in order."""
        for row in hidden.astype(np.float64):
            self._sum = self._sum + row if self._mean and self._count else row
            self._count += 1

    def vector(self) -> F64:
        """Returns the pooled vector: [D]."""
        return self._sum / self._count if self._mean else self._sum


def pooled_vector(output: RequestOutput, normalize: bool) -> F32:
    """Returns a pooled request's vector: [D], of length 1 if `normalize`. Raises RequestError if it failed."""
    if output.pooled is None:
        reason = output.outputs[0].finish_reason
        raise RequestError(f"the prompt could not be embedded: its request ended with {reason!r}", "prompt")
    length = float(np.linalg.norm(output.pooled)) if normalize else 1.0
    return np.asarray(output.pooled / (length or 1.0), np.float32)
