"""`octavo` with an engine that fails on certain tokens. A program for tests, not a test.

250: an exception. 251: NaN logits. 252: three seconds of CPU time before the step. 253 at the start of a
prompt (answers have it too): the device is lost.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from octavo.assembly import engine as assemble
from octavo.backends.base import BackendLost
from octavo.config import CacheConfig, EngineConfig
from octavo.types import Batch, StepResult

RAISES, NAN, SLOW, LOST = 250, 251, 252, 253


class Poisoned:
    def __init__(self, inner: Any, cache: CacheConfig):
        self._inner = inner
        self._held = np.zeros((cache.num_blocks, cache.block_size), np.int64)  # the token in each slot of the KV pool

    def run(self, batch: Batch) -> StepResult:
        if (batch.token_ids == RAISES).any():
            raise RuntimeError("injected failure")
        if (batch.token_ids[batch.positions == 0] == LOST).any():
            raise BackendLost("the GPU has failed: CUDA error: an illegal memory access was encountered")
        if (batch.token_ids == SLOW).any():
            end = time.monotonic() + 3
            while time.monotonic() < end:
                pass
        self._held.reshape(-1)[batch.slot_mapping] = batch.token_ids
        result: StepResult = self._inner.run(batch)
        owners = np.searchsorted(batch.query_starts, batch.logit_rows, side="right") - 1
        for seq, length in enumerate(batch.context_lens.tolist()):
            if NAN in self._held[batch.block_tables[seq]].reshape(-1)[:length]:
                result.finite[owners == seq] = np.False_
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def engine(descriptor: str) -> int:
    from octavo.server.engine.process import main

    real = assemble.make_backend

    def poisoned(model: Any, config: EngineConfig, cache: CacheConfig, *rest: Any) -> Any:
        return Poisoned(real(model, config, cache, *rest), cache)

    assemble.make_backend = poisoned
    return main(int(descriptor))


if __name__ == "__main__":
    if sys.argv[1] == "--engine":
        sys.exit(engine(sys.argv[2]))
    from octavo.cli.main import main
    from octavo.server.engine import supervisor

    supervisor.COMMAND = (sys.executable, __file__, "--engine")
    sys.exit(main(sys.argv[1:]))
