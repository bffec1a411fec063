"""What the engine needs of a device (`Backend`)."""

from __future__ import annotations

from typing import Protocol

from octavo.ir import Model
from octavo.types import Batch, StepResult, Transfers


class Backend(Protocol):
    """Runs steps on a device. Owns the KV pool's memory; whose block is whose is the control plane's business."""

    trees: bool  # whether it runs batches with `parents`

    def transfer(self, transfers: Transfers) -> None:
        """Copies KV within the pool, before the next `run`. If it raises, the pool's content is unknown: the engine
        cannot go on.
        """

    def run(self, batch: Batch) -> StepResult:
        """Runs one step. It may be repeated, whole or in part, also if it raised: it writes the same values to the same
        slots.
        """

    def share(self, model: Model) -> Backend:
        """A backend for another pass over the same model (`Model.with_layers`), on the same weights and KV cache, for
        batches of one token a sequence. Close this one last.
        """

    def memory(self) -> dict[str, int]:
        """Bytes by use: "weights", "kv", "scratch"."""

    def close(self) -> None: ...


def branch(batch: Batch, row: int) -> list[int]:
    """The rows from a draft tree's first level down to node `row`; empty for an ordinary row."""
    rows: list[int] = []
    while batch.parents is not None and batch.parents[row] >= 0:
        rows.append(row)
        row = int(batch.parents[row])
    return rows[::-1]
