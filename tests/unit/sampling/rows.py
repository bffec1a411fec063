"""Short ways to make the sampler's inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.sampling.arrays import build
from octavo.sampling.params import check
from octavo.sampling_params import SamplingParams
from octavo.types import F32, Request, SamplingArrays, Sequence


def sequence(
    prompt: list[int],
    output: list[int] | None = None,
    *,
    vocab: int = 100,
    seed: int = 0,
    index: int = 0,
    eos: tuple[int, ...] = (),
    bad: tuple[tuple[int, ...], ...] = (),
    drafts: list[int] | None = None,
    **params: Any,
) -> Sequence:
    checked = check(SamplingParams(**params), vocab)
    request = Request("r", list(prompt), checked, seed=seed, eos_token_ids=eos, bad_word_ids=bad)
    return Sequence(request, index, [*prompt, *(output or [])], len(prompt), drafts=drafts or [])


def arrays(*sequences: Sequence, vocab: int = 100) -> SamplingArrays:
    """The next token of each sequence."""
    return build([(seq, len(seq.token_ids)) for seq in sequences], vocab)


def logits(*values: float) -> F32:
    return np.array([values], np.float32)
