"""The time of a step on this machine by its number of rows, measured while the engine runs.

Reading the weights dominates a step of few rows, so further rows are nearly free. With more rows arithmetic dominates.
The crossover depends on the model, its quantisation and the CPU.

Costs are kept relative to a unit, the seconds of a one-row step. The unit follows the drift that all steps share
(longer contexts, a busier machine), so a ratio measured long ago stays valid.
"""

from __future__ import annotations

import numpy as np

from octavo.types import F32

ROWS = 512  # end of the curve; a step with more rows counts as this many
PRIOR_SLOPE = 0.04  # assumed cost of one more row before anything is measured
UNIT_RATE = 0.1  # weight of a new measurement in the unit
RATIO_RATE = 0.05  # weight of a new measurement in a ratio that has been measured often
CLIP = 2.0  # caps a measurement at this multiple of the expected cost: the machine was busy with other work


class StepCosts:
    def __init__(self) -> None:
        self.unit = 0.0  # seconds of a step with one row; 0: not measured yet
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
        """The number of measurements of steps with `rows` rows."""
        return self._counts.get(rows, 0)

    @property
    def reach(self) -> int:
        """The most rows that may be tried now.

        Beyond the measured rows the curve is a guess, so trials grow step by step. A machine with expensive rows is
        then detected by a short trial."""
        return min(ROWS - 1, max(self._ratios, default=1) * 3 // 2 + 2)

    def curve(self) -> F32:
        """[ROWS]: cost of a step in units by its number of rows. Never falls with more rows."""
        if self._curve is None:
            self._curve = self._fit()
        return self._curve

    def _fit(self) -> F32:
        """Interpolates linearly between measurements; outside them, applies the assumed slope from the nearest one."""
        rows = np.arange(ROWS)
        prior = 1 + PRIOR_SLOPE * (rows - 1)
        if not self._ratios:
            return prior.astype(np.float32)
        known = np.array(sorted(self._ratios))
        factors = np.array([self._ratios[row] for row in known.tolist()]) / prior[known]
        curve = prior * np.interp(rows, known, factors)
        return np.asarray(np.maximum.accumulate(curve), np.float32)

    def seconds(self, rows: int) -> float:
        """Expected seconds of a step with `rows` rows; 0 before the first measurement."""
        return self.unit * float(self.curve()[min(rows, ROWS - 1)])
