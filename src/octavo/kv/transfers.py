"""Copies within the pool that the control plane has decided on and the backend has not made yet."""

from __future__ import annotations

import numpy as np

from octavo.types import I32, Transfers

Pair = tuple[int, int]  # (source, target)


class PendingTransfers:
    """Whoever changes where KV belongs adds to `moves` (slots) or `copies` (blocks); see `types.Transfers`."""

    def __init__(self) -> None:
        self.moves: list[Pair] = []
        self.copies: list[Pair] = []

    def take(self) -> Transfers | None:
        """All that is pending, which then no longer is: each transfer is handed out once. None: nothing is."""
        if not self.moves and not self.copies:
            return None
        taken = Transfers(pairs(self.moves), pairs(self.copies))
        self.moves, self.copies = [], []
        return taken


def pairs(listed: list[Pair]) -> I32:
    """[len(listed), 2]"""
    return np.array(listed, np.int32).reshape(-1, 2)
