"""Whether a sequence's blocks should be loaded or computed again: what each has cost here so far.

    load if  wait + blocks * seconds of a block  <=  tokens * seconds of a prompt token

All three are measured while the engine runs. So few blocks are rather computed, and a tier that is slow, because others
use the disk, is asked less.
"""

from __future__ import annotations

RATE = 0.1  # weight of a new measurement in an estimate
EVERY = 16  # of so many decisions against loading one is made for it: otherwise a disk that was slow once stays slow


class SwapCosts:
    """block_size: tokens of a block."""

    def __init__(self, block_size: int):
        self._block_size = block_size
        self._load = Line()
        self._compute = Line()
        self._refusals = 0

    def loaded(self, blocks: int, seconds: float) -> None:
        """A sequence has waited so long for these blocks."""
        self._load.observe(blocks, seconds)

    def computed(self, tokens: int, seconds: float) -> None:
        """A step has spent so much time on prompt tokens."""
        self._compute.observe(tokens, seconds)

    def load_is_faster(self, blocks: int) -> bool:
        """As far as is known: True before both have been measured."""
        if not (self._load.known and self._compute.known):
            return True
        return self._load.at(blocks) <= self._compute.ratio * blocks * self._block_size

    def choose_load(self, blocks: int) -> bool:
        if self.load_is_faster(blocks):
            return True
        self._refusals += 1
        return self._refusals % EVERY == 0


class Line:
    """y = start + slope * x through recent points, neither below 0, by least squares."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    def observe(self, x: float, y: float) -> None:
        keep = 1 - RATE
        self._n, self._x, self._y = keep * self._n + 1, keep * self._x + x, keep * self._y + y
        self._xx, self._xy = keep * self._xx + x * x, keep * self._xy + x * y

    @property
    def ratio(self) -> float:
        """y for an x of 1, if the line starts at 0: long measurements count more."""
        return self._y / self._x

    def at(self, x: float) -> float:
        spread = self._n * self._xx - self._x * self._x
        if spread <= 1e-9 * self._n * self._xx:  # all at one place
            return self.ratio * x
        slope = (self._n * self._xy - self._x * self._y) / spread
        start = (self._y - slope * self._x) / self._n
        if slope < 0:
            return self._y / self._n
        return self.ratio * x if start < 0 else start + slope * x
