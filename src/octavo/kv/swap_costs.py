"""Whether a sequence's blocks should be loaded or computed again: what each has cost here so far.

    load if  bytes / bandwidth < tokens * seconds of a prompt token

Both are measured while the engine runs, so a tier that is slow, because others use the disk, is asked less.
"""

from __future__ import annotations

RATE = 0.2  # weight of a new measurement in an estimate
EVERY = 16  # a tier that seems slow is measured again at every such decision


class SwapCosts:
    """block_bytes: of all layers. block_size: tokens of a block."""

    def __init__(self, block_bytes: int, block_size: int):
        self._block_bytes, self._block_size = block_bytes, block_size
        self._load = _Rate()
        self._compute = _Rate()
        self._refusals = 0

    def loaded(self, blocks: int, seconds: float) -> None:
        """A sequence has waited so long for these blocks."""
        self._load.observe(blocks * self._block_bytes, seconds)

    def computed(self, tokens: int, seconds: float) -> None:
        """A step has taken so long, with only these prompt tokens in it."""
        self._compute.observe(tokens, seconds)

    def load_pays(self, blocks: int) -> bool:
        """Whether loading these blocks is expected to be faster. True as long as one of the two is not known."""
        if not (self._load.seconds and self._compute.seconds):
            return True
        loading = blocks * self._block_bytes * self._load.each
        if loading <= blocks * self._block_size * self._compute.each:
            return True
        self._refusals += 1
        return self._refusals % EVERY == 0


class _Rate:
    """Seconds of one unit, over recent measurements. Each counts by its size."""

    def __init__(self) -> None:
        self.units = self.seconds = 0.0

    def observe(self, units: float, seconds: float) -> None:
        self.units += units - RATE * self.units
        self.seconds += seconds - RATE * self.seconds

    @property
    def each(self) -> float:
        return self.seconds / self.units
