"""The drafting heads: their gradient, what they can learn, their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo.errors import ConfigError
from octavo.sampling import params
from octavo.sampling_params import SamplingParams
from octavo.spec.heads import Heads, HeadsDrafter
from octavo.spec.heads_fit import PARAMETERS, FitSettings, Text, fit, gradient
from octavo.types import Request, ScheduledSequence, Sequence, Status, StepResult

VOCAB, WIDTH, DEPTH = 30, 12, 3


def small_heads(seed: int = 0) -> Heads:
    rng = np.random.default_rng(seed)
    shapes = {"state": (WIDTH, 5), "step": (5, 5), "embed": (9, 5), "out": (8, 5), "bias": (8,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return Heads(ids=np.array([1, 3, 4, 9, 11, 20, 21, 29], np.int32), vocab_size=VOCAB, **arrays)


def test_rows_of_tokens_it_knows_and_does_not() -> None:
    assert small_heads().rows_of(np.array([1, 2, 29, 20, 0], np.int32)).tolist() == [0, 8, 7, 5, 8]


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    heads, rng = small_heads(), np.random.default_rng(1)
    for name in PARAMETERS:
        setattr(heads, name, getattr(heads, name).astype(np.float64))
    x = rng.standard_normal((20, WIDTH))
    rows = rng.integers(0, 9, (20, DEPTH + 1)).astype(np.int32)  # 8: a token that it cannot draft
    _, gradients = gradient(heads, x, rows)
    for name in PARAMETERS:
        array = getattr(heads, name)
        for index in list(np.ndindex(array.shape))[:: max(1, array.size // 7)]:
            losses = []
            for step in (1e-6, -1e-6):
                array[index] += step
                losses.append(gradient(heads, x, rows)[0])
                array[index] -= step
            assert gradients[name][index] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-5), (name, index)


def pattern(length: int, seed: int) -> Text:
    """Tokens that count upwards modulo 7 from a start; the state that chose a token says nothing."""
    rng = np.random.default_rng(seed)
    tokens = (np.arange(length) + seed) % 7 + 3
    return Text(rng.standard_normal((length, WIDTH)).astype(np.float32), tokens.astype(np.int32))


def fitted() -> Heads:
    settings = FitSettings(rank=16, size=20, depth=DEPTH, epochs=30, rate=1e-2)
    return fit([pattern(120, seed) for seed in range(8)], VOCAB, settings)


def test_it_learns_what_follows() -> None:
    losses: list[float] = []
    settings = FitSettings(rank=16, size=20, depth=DEPTH, epochs=30, rate=1e-2)
    heads = fit([pattern(120, seed) for seed in range(8)], VOCAB, settings, lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.1 < 1.5 < losses[0]
    z = heads.first(np.ones((1, WIDTH), np.float32), np.array([5], np.int32))
    assert heads.ids[heads.scores(z)[0].argmax()] == 6


def verified(drafter: HeadsDrafter, seq: Sequence, hidden: np.ndarray) -> None:
    """Reports a step to the drafter: its row 0 chose the newest token of `seq`."""
    entry = ScheduledSequence(seq, 1, 0, 0, 1, True, last_row=0)
    nothing = np.zeros(1, np.int32)
    drafter.observe([entry], StepResult(nothing, nothing > 0, hidden=hidden), 0.1)


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_it_drafts_for_the_state_it_has_seen_and_for_no_other(temperature: float) -> None:
    request = Request("r", [3], SamplingParams(temperature=temperature, max_tokens=None))
    seq = Sequence(request, 0, [3, 4, 5], 1, status=Status.RUNNING)
    params.build([(seq, 3)], VOCAB)  # attaches the sampler, as the step before would have
    drafter = HeadsDrafter(fitted())
    assert drafter.draft([seq], [3])[0].tokens == []
    verified(drafter, seq, np.zeros((1, WIDTH), np.float32))
    assert drafter.draft([seq], [3])[0].tokens == [6, 7, 8]
    assert drafter.draft([seq], [0])[0].tokens == []
    chains = drafter.chains([seq], [2], 3)[0]
    assert chains[0] == [6, 7] and len(chains) == 5 and len({tuple(chain) for chain in chains}) == 5
    seq.token_ids.append(6)
    assert drafter.draft([seq], [3])[0].tokens == [], "the state of the newest token is not known"


def test_its_file(tmp_path: Path) -> None:
    heads, path = small_heads(), tmp_path / "heads.npz"
    heads.save(path)
    again = Heads.load(path)
    again.check(WIDTH, VOCAB)
    assert again.vocab_size == VOCAB
    assert all(np.array_equal(getattr(again, name), getattr(heads, name)) for name in ("ids", *PARAMETERS))
    for width, vocab in ((WIDTH + 1, VOCAB), (WIDTH, VOCAB + 1)):
        with pytest.raises(ConfigError, match="another model"):
            again.check(width, vocab)
    for junk in (b"", b"PK\x03\x04 broken", path.read_bytes()[:200]):
        path.write_bytes(junk)
        with pytest.raises(ConfigError, match="cannot be read"):
            Heads.load(path)
