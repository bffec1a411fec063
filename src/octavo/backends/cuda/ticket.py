"""A step in flight, and what came back from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from octavo.backends.cuda.launch import RECORD
from octavo.backends.cuda.lost import watched
from octavo.backends.cuda.stream import Event
from octavo.types import StepResult


class Ticket:
    """records: int32 [R * RECORD] on the host, which the device fills before the event. extra: by name, the parts, one
    after the other, of what was asked for besides. probe: see `lost.watched`."""

    def __init__(self, records: Tensor, event: Event, extra: dict[str, list[Tensor]], probe: Callable[[], None]):
        self._records, self._event, self._extra, self._probe = records, event, extra, probe

    def result(self) -> StepResult:
        """Waits for the step. Must be called before the third step after it is submitted."""
        with watched(self._probe):
            self._event.synchronize()
        records = self._records.numpy().reshape(-1, RECORD)
        tokens, finite, logprobs, ranks = (records[:, field].copy() for field in range(RECORD))
        result = StepResult(tokens, finite != 0, logits=self._whole("logits"), hidden=self._whole("hidden"))
        if (tops := self._whole("tops")) is not None:
            result.logprobs, result.ranks = logprobs.view(np.float32), ranks
            result.top_ids, result.top_logprobs = tops[:, 0], tops[:, 1].view(np.float32)
        return result

    def _whole(self, name: str) -> np.ndarray | None:
        parts = self._extra.get(name)
        return None if parts is None else torch.cat(parts).numpy()
