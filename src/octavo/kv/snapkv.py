"""SnapKV (2404.14469): which keys a KV head keeps at the end of the prompt. The readable form of the native kernel."""

from __future__ import annotations

import numpy as np

from octavo.types import F32, I32


def choose(mass: F32, window: int, keep: int, pool: int) -> I32:
    """[keep]: the entries that a KV head keeps, rising: the last `window` ones and those with the highest scores.

    mass [C]: softmax weights that each of the C keys gets, summed over the last `window` queries of all query heads
    that share the KV head. An entry's score is the largest mass among the `pool` entries around it, so that what is
    kept comes in pieces. Of equal scores the lower position counts.
    """
    candidates = len(mass) - window
    assert candidates > 0 and window <= keep <= len(mass)
    padded = np.pad(mass[:candidates], pool // 2, constant_values=-1)
    scores = np.lib.stride_tricks.sliding_window_view(padded, pool).max(-1)
    best = np.argsort(-scores, kind="stable")[: keep - window]
    return np.concatenate([np.sort(best), np.arange(candidates, len(mass))]).astype(np.int32)
