"""Pending copies of KV: decided by the control plane, not yet made by the backend."""

from __future__ import annotations

import numpy as np

from octavo.types import I32, Compaction, Transfers

Pair = tuple[int, int]  # (source, target)


class PendingTransfers:
    """The cache, the scheduler and the store add to these lists; see `types.Transfers`."""

    def __init__(self) -> None:
        self.moves: list[Pair] = []
        self.copies: list[Pair] = []
        self.stores: list[Pair] = []
        self.loads: list[Pair] = []
        self.compactions: list[Compaction] = []

    def take(self) -> Transfers | None:
        """Returns and clears the pending transfers, so each is made once. None if there are none."""
        if not (self.moves or self.copies or self.stores or self.loads):
            return None
        stores, loads = (pairs(listed) if listed else None for listed in (self.stores, self.loads))
        taken = Transfers(pairs(self.moves), pairs(self.copies), stores, loads)
        self.moves, self.copies, self.stores, self.loads = [], [], [], []
        return taken

    def take_compactions(self) -> list[Compaction]:
        """Returns and clears the pending compactions. They are made after the transfers."""
        taken, self.compactions = self.compactions, []
        return taken


def pairs(listed: list[Pair]) -> I32:
    """[len(listed), 2]"""
    return np.array(listed, np.int32).reshape(-1, 2)
