"""One vector for a prompt, from its tokens' hidden states as they come in step by step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.errors import RequestError
from octavo.types import F32, SequenceDelta

MODES = ("mean", "last")


class Pool:
    """mode: "mean" of all tokens, or "last", the last token's.

    The mean is summed in float64, token after token, so that it does not depend on how the prompt was cut into chunks.
    """

    def __init__(self, mode: str):
        self.finish_reason: str | None = None
        self._mean = mode == "mean"
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._count = 0

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def take(self, delta: SequenceDelta) -> None:
        """Hidden states come in token order, [tokens, D] a delta."""
        for row in () if delta.hidden is None else delta.hidden.astype(np.float64):
            self._sum = self._sum + row if self._mean and self._count else row
            self._count += 1
        if delta.finished:
            self.finish_reason = delta.seq.finish_reason

    def vector(self, normalize: bool) -> F32:
        """[D]; of length 1 if `normalize`. Raises RequestError if the request did not get to its end."""
        if self.finish_reason != "stop":
            raise RequestError(
                f"the prompt could not be embedded: its request ended with {self.finish_reason!r}", "prompt"
            )
        vector = self._sum / self._count if self._mean else self._sum
        length = float(np.linalg.norm(vector)) if normalize else 1.0
        return np.asarray(vector / (length or 1.0), np.float32)
