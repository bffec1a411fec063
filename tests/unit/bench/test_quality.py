from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.bench.quality import Reading, score


def logits(*probabilities: float, shift: float = 0.0) -> np.ndarray:
    return (np.log(probabilities) + shift).astype(np.float32)


def test_a_distribution_does_not_differ_from_itself() -> None:
    """Adding a number to all logits changes nothing."""
    kld, nll, baseline, same = score(logits(0.5, 0.3, 0.2), logits(0.5, 0.3, 0.2, shift=7.0), 1)
    assert kld == pytest.approx(0, abs=1e-6) and same
    assert nll == pytest.approx(-math.log(0.3), abs=1e-6) == baseline


def test_the_divergence_is_that_of_the_definition() -> None:
    kld, nll, baseline, same = score(logits(0.5, 0.4, 0.1), logits(0.2, 0.7, 0.1), 0)
    assert kld == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.4 * math.log(0.4 / 0.7), abs=1e-6)
    assert (math.exp(-nll), math.exp(-baseline)) == pytest.approx((0.2, 0.5))
    assert not same


def test_large_logits_do_not_overflow() -> None:
    x = np.array([1e4, 0.0], np.float32)
    assert score(x, x, 1) == (0, 1e4, 1e4, True)


def test_figures_of_a_reading() -> None:
    kld = np.arange(101) / 100
    reading = Reading(kld, np.full(101, math.log(6.0)), np.full(101, math.log(5.0)), (kld > 0.5).astype(float))
    found = reading.figures()
    assert found["tokens"] == 101 and found["kld"] == pytest.approx(0.5) == found["kld_p50"]
    assert (found["kld_p99"], found["kld_max"]) == pytest.approx((0.99, 1.0))
    assert (found["ppl"], found["ppl_baseline"], found["ppl_change"]) == pytest.approx((6, 5, 0.2))
    assert found["same_top"] == pytest.approx(50 / 101)
