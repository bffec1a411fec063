"""`octavo` whose engine fails on certain tokens. Run as a program; no test.

250: an exception. 251: logits that are not numbers. 252: three seconds of computing before the step.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from octavo import assemble
from octavo.types import Batch, StepResult

RAISES, NAN, SLOW = 250, 251, 252


class Poisoned:
    def __init__(self, inner: Any):
        self._inner = inner

    def run(self, batch: Batch) -> StepResult:
        if (batch.token_ids == RAISES).any():
            raise RuntimeError("injected failure")
        if (batch.token_ids == SLOW).any():
            end = time.monotonic() + 3
            while time.monotonic() < end:
                pass
        result: StepResult = self._inner.run(batch)
        for chunk in batch.chunks:
            if NAN in chunk.seq.token_ids[: chunk.seq.num_prompt_tokens]:
                result.finite[chunk.row_start : chunk.row_stop] = np.False_
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def engine(descriptor: str) -> int:
    from octavo.server.engine_process import main

    real = assemble.make_backend
    assemble.make_backend = lambda *args, **more: Poisoned(real(*args, **more))  # type: ignore[assignment]
    return main(int(descriptor))


if __name__ == "__main__":
    if sys.argv[1] == "--engine":
        sys.exit(engine(sys.argv[2]))
    from octavo.cli.main import main
    from octavo.server import supervisor

    supervisor.COMMAND = (sys.executable, __file__, "--engine")
    sys.exit(main(sys.argv[1:]))
