"""Fits the heads of `spec.heads` to text the main model wrote: cross-entropy of the tokens DEPTH steps ahead, Adam
(1412.6980), plain numpy. Back-propagation goes through the recurrence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from octavo.spec.heads import Heads, normalised
from octavo.types import F32, I32

BATCH = 256
RATES = (0.9, 0.999)
Report = Callable[[int, float], None]  # (epoch, mean loss in nats)


@dataclass(frozen=True, slots=True)
class Text:
    """hidden [n, D]: the states that chose tokens[0..n): row i and tokens[i] foretell tokens[i + 1] and on."""

    hidden: F32
    tokens: I32


@dataclass(frozen=True, slots=True)
class FitSettings:
    """rank, size: of the heads (tokens they can draft). depth: tokens ahead that are fitted. rate: Adam's step."""

    rank: int = 128
    size: int = 4096
    depth: int = 3
    epochs: int = 10
    rate: float = 2e-3
    seed: int = 0


def fit(texts: list[Text], vocab_size: int, settings: FitSettings, report: Report = lambda *_: None) -> Heads:
    """Heads trained on all texts; each has more than `depth` tokens."""
    rng = np.random.default_rng(settings.seed)
    heads = _start(texts, vocab_size, settings, rng)
    hidden, tokens = _examples(texts, settings.depth)
    rows = heads.rows_of(tokens.reshape(-1)).reshape(tokens.shape)
    hidden = normalised(hidden)
    optimiser = Adam({name: getattr(heads, name) for name in PARAMETERS}, settings.rate)
    steps = settings.epochs * -(-len(hidden) // BATCH)
    for epoch in range(settings.epochs):
        losses = []
        for part in np.array_split(rng.permutation(len(hidden)), -(-len(hidden) // BATCH)):
            loss, gradients = gradient(heads, hidden[part], rows[part])
            optimiser.step(gradients, 1 - optimiser.steps / steps)
            losses.append(loss)
        report(epoch, float(np.mean(losses)))
    return heads


PARAMETERS = ("state", "step", "embed", "out", "bias")


def _start(texts: list[Text], vocab_size: int, settings: FitSettings, rng: np.random.Generator) -> Heads:
    counts = Counter(token for text in texts for token in text.tokens.tolist())
    ids = np.array(sorted(token for token, _ in counts.most_common(settings.size)), np.int32)
    width, rank = texts[0].hidden.shape[1], settings.rank

    def matrix(rows: int, columns: int, scale: float) -> F32:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    frequency = np.array([counts[int(token)] for token in ids], np.float32)
    return Heads(
        ids=ids,
        state=matrix(width, rank, width**-0.5),
        step=matrix(rank, rank, rank**-0.5),
        embed=matrix(len(ids) + 1, rank, 0.5),
        out=matrix(len(ids), rank, rank**-0.5),
        bias=np.log(frequency / frequency.sum()),
        vocab_size=vocab_size,
    )


def _examples(texts: list[Text], depth: int) -> tuple[F32, I32]:
    """(hidden [N, D], tokens [N, depth + 1]): a state, the token it chose, and the `depth` tokens after that."""
    hidden = np.concatenate([text.hidden[: len(text.tokens) - depth] for text in texts])
    windows = [np.lib.stride_tricks.sliding_window_view(text.tokens, depth + 1) for text in texts]
    return hidden, np.concatenate(windows)


def gradient(heads: Heads, x: F32, rows: I32) -> tuple[float, dict[str, F32]]:
    """(mean loss, gradients) of examples x [N, D] (normalised), rows [N, depth + 1] (of `embed`, see Heads.rows_of).

    A token that the heads cannot draft is no target, but it is the next step's input.
    """
    depth, other = rows.shape[1] - 1, len(heads.ids)
    zs: list[F32] = []
    errors: list[F32] = []
    loss = 0.0
    scale = np.float32(1 / (len(x) * depth))
    for j in range(depth):
        z = np.tanh((x @ heads.state if j == 0 else zs[-1] @ heads.step) + heads.embed[rows[:, j]])
        error, part = _softmax_error(heads.scores(z), rows[:, j + 1], other)
        loss += float(part) * float(scale)
        zs.append(z)
        errors.append(error * scale)
    out = {name: np.zeros_like(getattr(heads, name)) for name in PARAMETERS}
    back = np.zeros_like(zs[0])
    for j in reversed(range(depth)):
        out["out"] += errors[j].T @ zs[j]
        out["bias"] += errors[j].sum(0)
        back = (errors[j] @ heads.out + back) * (1 - zs[j] ** 2)
        np.add.at(out["embed"], rows[:, j], back)
        if j == 0:
            out["state"] += x.T @ back
        else:
            out["step"] += zs[j - 1].T @ back
            back = back @ heads.step.T
    return loss, out


def _softmax_error(scores: F32, targets: I32, other: int) -> tuple[F32, float]:
    """(softmax - one-hot, 0 where there is no target; the sum of the losses)."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    known = np.flatnonzero(targets < other)
    loss = -np.log(np.maximum(p[known, targets[known]], 1e-12)).sum()
    p[known, targets[known]] -= 1
    p[targets >= other] = 0
    return p, float(loss)


class Adam:
    """Changes the arrays in place."""

    def __init__(self, arrays: dict[str, F32], rate: float):
        self._arrays, self._rate = arrays, rate
        self._means = {name: np.zeros_like(array) for name, array in arrays.items()}
        self._squares = {name: np.zeros_like(array) for name, array in arrays.items()}
        self.steps = 0

    def step(self, gradients: dict[str, F32], factor: float) -> None:
        self.steps += 1
        (a, b), count = RATES, self.steps
        for name, array in self._arrays.items():
            mean, square, g = self._means[name], self._squares[name], gradients[name]
            mean += (1 - a) * (g - mean)
            square += (1 - b) * (g * g - square)
            size = self._rate * factor * (1 - b**count) ** 0.5 / (1 - a**count)
            array -= np.float32(size) * mean / (np.sqrt(square) + np.float32(1e-8))
