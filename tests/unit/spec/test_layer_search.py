"""The search for layers to skip, with a known worth of each layer."""

from __future__ import annotations

import pytest

from octavo.spec.layer_search import Judge, Layers, search

WORTH = {1: 0.3, 2: 0.01, 3: 0.02, 4: 0.2, 5: 0.01, 6: 0.02, 7: 0.25, 8: 0.3}


def judge(head: float) -> Judge:
    """Skipping a layer lowers agreement by its worth. head: share of a pass that skipping cannot save."""
    return Judge(
        agreement=lambda layers: max(0.0, 1 - sum(w for layer, w in WORTH.items() if layer not in layers)),
        cost=lambda layers: head + (1 - head) * len(layers) / 10,
        verify_cost=lambda length: 1 + 0.02 * length,
    )


def best(head: float) -> Layers:
    return max(search(10, judge(head)), key=lambda candidate: candidate.speedup).layers


def test_it_leaves_out_what_is_worth_little() -> None:
    assert {0, 1, 7, 8, 9} <= set(best(0.0)) and not {2, 5} & set(best(0.0))


def test_the_expected_speed_is_the_formula_s() -> None:
    candidate = judge(0.3).judge((0, 1, 4, 7, 8, 9))
    assert candidate.acceptance == pytest.approx(0.94) and candidate.cost == pytest.approx(0.72)
    one = (1 + candidate.acceptance) / (1.02 + candidate.cost)
    assert candidate.speedup >= one - 1e-9


def test_no_length_where_nothing_pays() -> None:
    assert judge(1.0).judge(tuple(range(10))).length == 0
