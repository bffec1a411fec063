"""What a step costs on this machine, by its number of rows: measured while it works, never guessed for long.

Reading the weights dominates a step of few rows, so that further rows are nearly free; then arithmetic does. Where the
bend lies depends on the model, its quantisation and the CPU.

Everything is kept relative to a unit, the seconds of one row, which follows the drift that all steps share (longer
contexts, a busier machine), so that a ratio measured long ago still holds.
"""

from __future__ import annotations

import numpy as np

from octavo.types import F32

ROWS = 512  # the curve's end; a step with more rows counts as one with so many
PRIOR_SLOPE = 0.04  # assumed cost of one more row before anything is measured
UNIT_RATE = 0.1  # how fast the unit follows
RATIO_RATE = 0.05  # how fast a ratio follows once it has been measured often
CLIP = 2.0  # a measurement counts as at most so many times what was expected: the machine did something else


class StepCosts:
    def __init__(self) -> None:
        self.unit = 0.0  # seconds of a step with one row; 0: nothing is known
        self._ratios: dict[int, float] = {}  # rows -> cost in units
        self._counts: dict[int, int] = {}
        self._curve: F32 | None = None

    def observe(self, rows: int, seconds: float) -> None:
        rows = min(rows, ROWS - 1)
        if self.unit == 0:
            self.unit = seconds / (1 + PRIOR_SLOPE * (rows - 1))
        count = self._counts[rows] = self._counts.get(rows, 0) + 1
        if count > 1:
            expected = self.unit * self._ratios[rows]
            seconds = min(max(seconds, expected / CLIP), expected * CLIP)
            self.unit *= 1 + UNIT_RATE * (seconds / expected - 1)
        ratio, rate = seconds / self.unit, max(RATIO_RATE, 1 / count)
        self._ratios[rows] = ratio if count == 1 else self._ratios[rows] + rate * (ratio - self._ratios[rows])
        self._curve = None

    def measured(self, rows: int) -> int:
        """How often a step with so many rows has been measured."""
        return self._counts.get(rows, 0)

    @property
    def reach(self) -> int:
        """The most rows that may be tried now: beyond what was measured the curve is a guess, so it is felt out in
        growing strides, and a machine on which rows are dear is found out by a short one."""
        return min(ROWS - 1, max(self._ratios, default=1) * 3 // 2 + 2)

    def curve(self) -> F32:
        """[ROWS]: cost of a step in units by its number of rows. Never falls with more rows."""
        if self._curve is None:
            self._curve = self._fit()
        return self._curve

    def _fit(self) -> F32:
        """Straight lines between what was measured; outside, the assumed slope from the nearest measurement."""
        rows = np.arange(ROWS)
        prior = 1 + PRIOR_SLOPE * (rows - 1)
        if not self._ratios:
            return prior.astype(np.float32)
        known = np.array(sorted(self._ratios))
        factors = np.array([self._ratios[row] for row in known.tolist()]) / prior[known]
        curve = prior * np.interp(rows, known, factors)
        return np.asarray(np.maximum.accumulate(curve), np.float32)

    def seconds(self, rows: int) -> float:
        """Expected seconds of a step with so many rows; 0 while nothing is known."""
        return self.unit * float(self.curve()[min(rows, ROWS - 1)])
