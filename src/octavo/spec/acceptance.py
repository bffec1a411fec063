"""How often drafts are accepted: running shares by method and confidence class, and by sequence.

A sequence's share starts from the method's share and gains weight with its trials. Both forget slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY = 0.98  # decay of a trial's weight with each later trial: about 50 trials count
OWN_WEIGHT = 6.0  # weight of the method's share in a sequence's estimate, in trials
PRIOR_WEIGHT = 3.0
PRIOR = (0.5, 0.5, 0.65, 0.8, 0.9)  # by class of confidence, before any trial


def confidence_class(confidence: int) -> int:
    """0: none given; then match lengths of 1, 2-3, 4-7, 8 and more."""
    return min(confidence.bit_length(), len(PRIOR) - 1)


@dataclass(slots=True)
class Share:
    successes: float = 0.0
    trials: float = 0.0

    def add(self, accepted: int, drafted: int) -> None:
        """Counts a draft's tokens up to the first rejected one; later tokens are not trials."""
        trials = min(drafted, accepted + 1)
        keep = MEMORY**trials
        self.successes = self.successes * keep + accepted
        self.trials = self.trials * keep + trials

    def estimate(self, prior: float, weight: float) -> float:
        return (self.successes + prior * weight) / (self.trials + weight)


class Acceptance:
    """Acceptance of one method. Sequence keys are any hashable; call `forget` when a sequence ends."""

    def __init__(self) -> None:
        self._shares = [Share() for _ in PRIOR]
        self._own: dict[object, list[Share]] = {}

    def add(self, key: object, confidence: int, accepted: int, drafted: int) -> None:
        index = confidence_class(confidence)
        self._shares[index].add(accepted, drafted)
        self._own.setdefault(key, [Share() for _ in PRIOR])[index].add(accepted, drafted)

    def estimate(self, key: object, confidence: int) -> float:
        """The probability that a draft token is accepted, given that all before it are."""
        index = confidence_class(confidence)
        general = self._shares[index].estimate(PRIOR[index], PRIOR_WEIGHT)
        own = self._own.get(key)
        return general if own is None else own[index].estimate(general, OWN_WEIGHT)

    @property
    def trials(self) -> float:
        return sum(share.trials for share in self._shares)

    def forget(self, key: object) -> None:
        self._own.pop(key, None)
