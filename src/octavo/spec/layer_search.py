"""Which layers to keep for drafting (SWIFT 2410.06916 searches online; here it is done once, offline).

Layers are ranked by how often the pass without that one layer still chooses the model's own next token. Then the least
important layers are removed one after another, and the set with the best expected speed wins. A few swaps refine it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from octavo.spec.speedup import expected_speedup

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    layers: Layers
    acceptance: float
    cost: float  # time of one drafting pass / time of one plain step
    length: int  # the best draft length, 0: none is worth it
    speedup: float  # expected


@dataclass(frozen=True, slots=True)
class Judge:
    """agreement: share of positions where these layers choose the model's own next token. cost: see Candidate.
    verify_cost: T(k + 1) / T(1) for k drafted tokens."""

    agreement: Callable[[Layers], float]
    cost: Callable[[Layers], float]
    verify_cost: Callable[[int], float]
    most: int = 8  # the longest draft

    def judge(self, layers: Layers) -> Candidate:
        alpha, cost = self.agreement(layers), self.cost(layers)
        speeds = {k: expected_speedup(alpha, k, self.verify_cost(k), cost) for k in range(1, self.most + 1)}
        best = max(speeds, key=lambda k: speeds[k])
        return Candidate(layers, alpha, cost, best if speeds[best] > 1 else 0, speeds[best])


def search(count: int, judge: Judge, swaps: int = 8) -> Iterator[Candidate]:
    """Yields candidates as they are judged; the caller keeps the best. count: layers of the model.

    The first and the last layer stay: nothing works without them.
    """
    whole = tuple(range(count))
    importance = {layer: judge.judge(_without(whole, {layer})) for layer in whole[1:-1]}
    yield from importance.values()
    order = sorted(importance, key=lambda layer: -importance[layer].acceptance)
    best: Candidate | None = None
    for size in range(2, len(order) + 1):
        candidate = judge.judge(_without(whole, set(order[:size])))
        yield candidate
        if best is None or candidate.speedup > best.speedup:
            best = candidate
        if candidate.acceptance < 0.2:  # it only gets worse
            break
    for candidate in _swapped(best, order, judge, swaps) if best else ():
        yield candidate


def _swapped(best: Candidate, order: list[int], judge: Judge, swaps: int) -> Iterator[Candidate]:
    """Swaps the most important removed layer with the least important kept layer."""
    for _ in range(swaps):
        gone = [layer for layer in order if layer not in best.layers]
        kept = [layer for layer in order if layer in best.layers]
        if not gone or not kept:
            return
        layers = tuple(sorted({*best.layers, gone[-1]} - {kept[0]}))
        candidate = judge.judge(layers)
        yield candidate
        if candidate.speedup <= best.speedup:
            return
        best = candidate


def _without(whole: Layers, gone: set[int]) -> Layers:
    return tuple(layer for layer in whole if layer not in gone)
