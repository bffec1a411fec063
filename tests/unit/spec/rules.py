"""Speculative sampling as the papers define it: the readable reference. The engine uses another rule, see below.

Leviathan et al. (2211.17192), Chen et al. (2302.01318). p: the model's distribution after temperature, truncation,
penalties and grammar; q: the drafter's, after its own. Draw x ~ q; accept it if u < min(1, p(x) / q(x)); at the first
rejection draw from norm(max(0, p - q)) and stop; if all k are accepted, draw one more from p. The output is distributed
as p at each place, whatever q is.

Trees (SpecInfer 2305.09781): siblings are tried in turn. When x is rejected, p becomes norm(max(0, p - q)), and q is
renormalised without x, since the next sibling is drawn without replacement.

A drafter without a distribution (n-grams, argmax) has q one-hot: x is accepted with probability p(x), else p loses x.

What the engine does instead. The random number of a token depends on (seed, position) alone, and a token is the inverse
of p's cumulative distribution at that number: x = F_p^-1(u). So the engine computes what it would have drawn anyway at
every drafted position, and accepts a draft if it is that very token. This is exact in the strongest sense: not only the
distribution but the output itself is the same with speculation on or off.

The engine's acceptance is p(x) for a one-hot q, as above. For a drafter that draws with the same u it is the measure of
{u : F_q^-1(u) = F_p^-1(u)}, which `coupled_acceptance` computes. That is at most sum(min(p, q)), the acceptance of the
papers' rule, and equal to it (1) where q = p.

N trials are done at once, one per row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


def accepts(p: F64, q: F64, drafts: I64, u: F64) -> Bools:
    """[N]: u < min(1, p(x) / q(x)). p, q [V] or [N, V]; drafts [N] with q > 0; u [N] uniform in [0, 1)."""
    return np.asarray(u * _at(q, drafts) < _at(p, drafts))


def residual(p: F64, q: F64) -> F64:
    """norm(max(0, p - q)) over the last axis; p itself where nothing is left (q = p: no draft is rejected then)."""
    left = np.maximum(p - q, 0)
    total = left.sum(axis=-1, keepdims=True)
    return np.where(total > 0, left / np.where(total > 0, total, 1), p)


def draw(p: F64, u: F64) -> I64:
    """[N]: the first token whose cumulative probability exceeds u. p [V] or [N, V]."""
    if p.ndim == 1:
        cumulative = np.cumsum(p)
        index = np.searchsorted(cumulative, u * cumulative[-1], side="right")
        return np.asarray(np.minimum(index, np.flatnonzero(p)[-1]))
    cumulative = np.cumsum(p, axis=-1)
    index = (cumulative <= (u * cumulative[:, -1])[:, None]).sum(axis=-1)
    last = p.shape[-1] - 1 - np.argmax(p[:, ::-1] > 0, axis=-1)
    return np.asarray(np.minimum(index, last))


def verify(p: F64, q: F64, drafts: I64, rng: np.random.Generator) -> tuple[I64, I64]:
    """(accepted [N], final token [N]) of N drafts of k tokens. p [k + 1, V], q [k, V], drafts [N, k]."""
    count, length = drafts.shape
    accepted = np.zeros(count, np.int64)
    alive = np.ones(count, np.bool_)
    for place in range(length):
        alive &= accepts(p[place], q[place], drafts[:, place], _uniform(rng, count))
        accepted += alive
    after = np.concatenate([residual(p[:length], q), p[length:]])
    return accepted, draw(after[accepted], _uniform(rng, count))


def verify_siblings(p: F64, q: F64, siblings: I64, rng: np.random.Generator) -> tuple[I64, I64]:
    """(accepted sibling or -1 [N], token [N]) for siblings [N, b], drawn from q without replacement."""
    count = len(siblings)
    p, q = np.repeat(p[None], count, 0), np.repeat(q[None], count, 0)
    chosen, token = np.full(count, -1), np.zeros(count, np.int64)
    rows = np.arange(count)
    for place in range(siblings.shape[1]):
        tried = siblings[:, place]
        stands = (chosen < 0) & accepts(p, q, tried, _uniform(rng, count))
        chosen[stands], token[stands] = place, tried[stands]
        p = residual(p, q)
        q[rows, tried] = 0
        q /= np.maximum(q.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
    return chosen, np.where(chosen < 0, draw(p, _uniform(rng, count)), token)


def draw_siblings(q: F64, count: int, width: int, rng: np.random.Generator) -> I64:
    """[N, width] tokens of q [V], without replacement. width: at most the number of tokens with q > 0."""
    left = np.repeat(q[None], count, 0)
    out = np.empty((count, width), np.int64)
    for place in range(width):
        out[:, place] = draw(left / left.sum(axis=-1, keepdims=True), _uniform(rng, count))
        left[np.arange(count), out[:, place]] = 0
    return out


def acceptance(p: F64, q: F64) -> float:
    """The acceptance of the papers' rule, alpha: the sum of min(p, q)."""
    return float(np.minimum(p, q).sum())


def coupled_acceptance(p: F64, q: F64) -> float:
    """The acceptance of the engine's rule for a drafter that draws from q with the same random number.

    It is the part of [0, 1) that both cumulative distributions map to the same token.
    """
    tops = np.minimum(np.cumsum(p), np.cumsum(q))
    bottoms = np.maximum(np.cumsum(p) - p, np.cumsum(q) - q)
    return float(np.maximum(tops - bottoms, 0).sum())


def _uniform(rng: np.random.Generator, count: int) -> F64:
    return np.asarray(rng.random(count))


def _at(p: F64, tokens: I64) -> F64:
    return p[tokens] if p.ndim == 1 else p[np.arange(len(tokens)), tokens]
