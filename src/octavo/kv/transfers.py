"""Pending copies within the pool: decided by the control plane, not yet made by the backend."""

from __future__ import annotations

import numpy as np

from octavo.types import I32, Transfers

Pair = tuple[int, int]  # (source, target)


class PendingTransfers:
    """The cache and the scheduler add to `moves` (slots) and `copies` (blocks); see `types.Transfers`."""

    def __init__(self) -> None:
        self.moves: list[Pair] = []
        self.copies: list[Pair] = []

    def take(self) -> Transfers | None:
        """Returns and clears the pending transfers, so each is made once. None if there are none."""
        if not self.moves and not self.copies:
            return None
        taken = Transfers(pairs(self.moves), pairs(self.copies))
        self.moves, self.copies = [], []
        return taken


def pairs(listed: list[Pair]) -> I32:
    """[len(listed), 2]"""
    return np.array(listed, np.int32).reshape(-1, 2)
