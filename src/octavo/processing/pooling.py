"""One vector for a prompt, from its tokens' hidden states as they come in step by step."""

from __future__ import annotations

import numpy as np

from octavo.errors import RequestError
from octavo.outputs import RequestOutput
from octavo.types import F32, F64, Request, SequenceDelta

MODES = ("mean", "last")


class Pooling:
    """The pooled requests of one engine. Their hidden states end here; the vector leaves with the last delta."""

    def __init__(self) -> None:
        self._poolers: dict[str, HiddenStatePooler] = {}

    def add(self, request: Request) -> None:
        """To be called for every request that the engine takes; one that is not pooled is none of our business."""
        if request.pooling is not None:
            self._poolers[request.request_id] = HiddenStatePooler(request.pooling)

    def collect(self, deltas: list[SequenceDelta]) -> list[SequenceDelta]:
        """The deltas to pass on. Of a pooled request that is the last one only, with `pooled` unless it failed."""
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
    """mode: "mean" of all tokens, or "last", the last token's.

    The mean is summed in float64, token after token, so that it does not depend on how the prompt was cut into chunks.
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
        """[D]"""
        return self._sum / self._count if self._mean else self._sum


def pooled_vector(output: RequestOutput, normalize: bool) -> F32:
    """[D]: what a pooled request has brought; of length 1 if `normalize`. Raises RequestError if it failed."""
    if output.pooled is None:
        reason = output.outputs[0].finish_reason
        raise RequestError(f"the prompt could not be embedded: its request ended with {reason!r}", "prompt")
    length = float(np.linalg.norm(output.pooled)) if normalize else 1.0
    return np.asarray(output.pooled / (length or 1.0), np.float32)
