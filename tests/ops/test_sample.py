"""The native sampler chooses and reports the same as src/octavo/sampling/rules.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from octavo import _native
from octavo.sampling import rules
from octavo.types import F32, I32, SamplingArrays
from tests.unit.sampling.rows import arrays, sequence

ROWS = 40


@dataclass
class Result:
    tokens: I32
    finite: np.ndarray
    logprobs: F32
    ranks: I32
    top_ids: I32
    top_logprobs: F32


def run(
    isa: str, logits: F32, sampling: SamplingArrays | None = None, targets: I32 | None = None, top: int = 5
) -> Result:
    rows = len(logits)
    out = Result(
        np.full(rows, -9, np.int32),
        np.full(rows, 9, np.uint8),
        np.empty(rows, np.float32),
        np.empty(rows, np.int32),
        np.empty((rows, top), np.int32),
        np.empty((rows, top), np.float32),
    )
    targets = np.full(rows, -1, np.int32) if targets is None else targets
    flat = (out.top_ids.reshape(-1), out.top_logprobs.reshape(-1))
    _native.ops.sample_rows(isa, logits, targets, sampling, out.tokens, out.finite, out.logprobs, out.ranks, *flat, top)
    return out


def rows(vocab: int, shape: str, count: int = ROWS) -> F32:
    """Logits. normal: as of models. flat: nearly uniform. ties: many equal values. peaked: one token has almost all."""
    rng = np.random.default_rng([vocab, len(shape)])
    x = rng.standard_normal((count, vocab)) * {"normal": 3, "flat": 0.01, "ties": 2, "peaked": 3}[shape]
    x[:, vocab // 3] += 25 if shape == "peaked" else 0
    return (np.round(x) if shape == "ties" else x).astype(np.float32)


def agree(logits: F32, made: SamplingArrays, tokens: I32) -> bool:
    """True if the tokens are those of the rules, except for draws within rounding of the border between two tokens."""
    expected = rules.sample(logits, made, np.full(len(logits), -1, np.int32))
    for row in np.flatnonzero(expected != tokens):
        cumulative = rules.filter_probs(rules.apply_edits(logits, made), made)[row].astype(np.float64).cumsum()
        drawn = float(rules.uniform(made.seeds, made.positions)[row])
        if abs(cumulative[min(expected[row], tokens[row])] - drawn) > 1e-6:
            return False
    return True


@pytest.mark.parametrize("vocab", [1, 16, 17, 1000, 1025, 49152, 262145])
@pytest.mark.parametrize("shape", ["normal", "ties"])
def test_greedy_takes_the_first_of_the_largest(isa: str, vocab: int, shape: str):
    logits = rows(vocab, shape, 4)
    out = run(isa, logits, top=0)
    assert (out.tokens == logits.argmax(-1)).all()
    assert out.finite.all()


PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 7, "temperature": 2.0},
    {"top_k": 900},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"top_p": 0.01},
    {"min_p": 0.1},
    {"typical_p": 0.7},
    {"top_k": 50, "top_p": 0.8, "temperature": 0.8},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
    {"min_p": 1.0, "typical_p": 0.5},
]


@pytest.mark.parametrize("shape", ["normal", "flat", "ties", "peaked"])
@pytest.mark.parametrize("params", PARAMETERS, ids=str)
def test_samples_the_reference_tokens(isa: str, params: dict[str, Any], shape: str):
    for vocab in (3, 1000, 5003):
        logits = rows(vocab, shape)
        made = arrays(*(sequence([1], vocab=vocab, seed=i, **params) for i in range(ROWS)), vocab=vocab)
        out = run(isa, logits, made)
        assert agree(logits, made, out.tokens)
        assert out.finite.all()


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 100}, {"top_p": 0.95, "temperature": 3.0}], ids=str)
def test_samples_the_reference_tokens_from_a_large_vocabulary(isa: str, params: dict[str, Any]):
    logits = rows(151936, "normal", 4)
    made = arrays(*(sequence([1], vocab=151936, seed=i, **params) for i in range(4)), vocab=151936)
    assert agree(logits, made, run(isa, logits, made).tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_edits(isa: str, temperature: float):
    vocab, history = 77, [3, 4, 4, 5, 70]
    edits: list[dict[str, Any]] = [
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 1.5, "presence_penalty": -0.7},
        {"logit_bias": {3: 5.0, 76: 7.5}},
        {"allowed_token_ids": [3, 31, 32, 64, 76]},
        {"repetition_penalty": 0.5, "presence_penalty": 1, "logit_bias": {4: -100}, "allowed_token_ids": [3, 4, 70]},
        {},
    ]
    logits = rows(vocab, "normal", len(edits))
    made = arrays(
        *(sequence([3, 4], history, vocab=vocab, seed=i, temperature=temperature, **e) for i, e in enumerate(edits)),
        vocab=vocab,
    )
    assert agree(logits, made, run(isa, logits, made).tokens)


def test_targets_are_scored_and_not_sampled(isa: str):
    logits = rows(1000, "normal")
    targets = np.where(np.arange(ROWS) % 2, np.arange(ROWS), -1).astype(np.int32)
    made = arrays(*(sequence([1], vocab=1000, seed=i) for i in range(ROWS)), vocab=1000)
    out = run(isa, logits, made, targets)
    assert (out.tokens == rules.sample(logits, made, targets)).all()
    assert (out.tokens[1::2] == targets[1::2]).all()


@pytest.mark.parametrize("vocab", [5, 1000, 49152])
@pytest.mark.parametrize("shape", ["normal", "flat", "ties"])
def test_logprobs_ranks_and_top(isa: str, vocab: int, shape: str):
    logits = rows(vocab, shape, 6)
    logits[1, : vocab // 2] = -np.inf
    targets = np.array([-1, -1, 0, vocab - 1, 1, 2], np.int32)
    out = run(isa, logits, None, targets)
    values = rules.logprobs(logits)
    ids, top = rules.top(values, 5)
    assert out.logprobs == pytest.approx(values[np.arange(6), out.tokens], abs=1e-6)
    assert (out.ranks == rules.ranks(logits, out.tokens)).all()
    assert out.top_logprobs == pytest.approx(top, abs=1e-6)
    shifted = logits - logits.max(-1, keepdims=True)
    same_as_logits = np.array_equal(ids, rules.top(shifted, 5)[0])  # rounding made no two log-probabilities equal
    assert np.array_equal(out.top_ids, ids) or not same_as_logits


@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
def test_rows_that_offer_no_token_are_reported_and_harm_no_other(isa: str, bad: float | None):
    logits = rows(1000, "normal", 3)
    if bad is None:
        logits[1] = -np.inf
    else:
        logits[1, 700] = bad
    made = arrays(*(sequence([1], vocab=1000, seed=i) for i in range(3)), vocab=1000)
    out = run(isa, logits, made)
    assert out.finite.tolist() == [1, 0, 1]
    clean = run(isa, rows(1000, "normal", 3), made)
    assert (out.tokens[[0, 2]] == clean.tokens[[0, 2]]).all()
    assert out.tokens[1] == 0


def test_a_row_whose_tokens_are_all_banned_is_reported(isa: str):
    vocab = 40
    logits = rows(vocab, "normal", 2)
    logits[0, [5, 6]] = -np.inf
    made = arrays(
        sequence([1], vocab=vocab, allowed_token_ids=[5, 6]),
        sequence([1], vocab=vocab, allowed_token_ids=[7]),
        vocab=vocab,
    )
    out = run(isa, logits, made)
    assert out.finite.tolist() == [0, 1]
    assert out.tokens.tolist() == [0, 7]


def test_same_bits_on_every_instruction_set(isa: str):
    for shape in ("normal", "flat", "ties"):
        logits = rows(5003, shape)
        made = arrays(*(sequence([1], vocab=5003, seed=i, top_p=0.9) for i in range(ROWS)), vocab=5003)
        ours, plain = run(isa, logits, made), run("portable", logits, made)
        for name in ours.__dataclass_fields__:
            assert getattr(ours, name).tobytes() == getattr(plain, name).tobytes(), name
