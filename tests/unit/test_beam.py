"""Beam search against a small language whose best sentences can be enumerated."""

from __future__ import annotations

import itertools
import math

import pytest

from octavo.errors import RequestError
from octavo.offline.beam import BeamSearchParams, BeamSearchSequence, Candidates, check_beam_params, search
from octavo.processing.inputs import Tokens

EOS = 0
VOCAB = 5


def logprob(history: list[int], token: int) -> float:
    """A fixed, uneven distribution that depends on the last two tokens."""
    scores = [
        math.sin(1.7 * t + 2.3 * history[-1] + 0.9 * (history[-2] if len(history) > 1 else 0)) for t in range(VOCAB)
    ]
    return scores[token] - math.log(sum(map(math.exp, scores)))


def expand(beams: list[BeamSearchSequence], count: int) -> list[Candidates]:
    ranked = [sorted(((t, logprob(b.tokens, t)) for t in range(VOCAB)), key=lambda c: -c[1]) for b in beams]
    return [options[:count] for options in ranked]


def exhaustive(prompt: list[int], length: int, penalty: float, ends: bool) -> list[tuple[float, list[int]]]:
    """Every complete answer with its score, best first."""
    found = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(VOCAB), repeat=size):
            closed = ends and tokens[-1] == EOS
            if (ends and EOS in tokens[:-1]) or not (closed or size == length):
                continue
            total = sum(logprob([*prompt, *tokens[:i]], token) for i, token in enumerate(tokens))
            found.append((total / size**penalty, list(tokens)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_of_all_sentences(penalty: float, ignore_eos: bool):
    params = BeamSearchParams(beam_width=64, max_tokens=4, ignore_eos=ignore_eos, length_penalty=penalty)
    (found,) = search([Tokens([3, 1])], params, (EOS,), expand)
    best = exhaustive([3, 1], 4, penalty, ends=not ignore_eos)[:5]
    for beam, (score, tokens) in zip(found[:5], best, strict=True):
        assert beam.output_token_ids == tokens
        assert beam.cum_logprob / len(tokens) ** penalty == pytest.approx(score)
        assert beam.finish_reason == ("stop" if not ignore_eos and tokens[-1] == EOS else "length")


def test_one_beam_is_greedy_decoding():
    (found,) = search([Tokens([3])], BeamSearchParams(1, 6, ignore_eos=True), (EOS,), expand)
    tokens = [3]
    for _ in range(6):
        tokens.append(max(range(VOCAB), key=lambda t: logprob(tokens, t)))
    assert [beam.tokens for beam in found] == [tokens]


def test_prompts_searched_together_answer_as_alone():
    params = BeamSearchParams(3, 5)
    prompts = [Tokens([1]), Tokens([2, 4], cache_salt="s"), Tokens([3, 3, 3])]
    assert search(prompts, params, (EOS,), expand) == [search([p], params, (EOS,), expand)[0] for p in prompts]


def test_beams_keep_their_prompts_salt():
    (found,) = search([Tokens([1], cache_salt="tenant")], BeamSearchParams(2, 2), (EOS,), expand)
    assert {beam.cache_salt for beam in found} == {"tenant"}


def test_search_ends_once_nothing_better_can_come():
    steps = []

    def certain_end(beams: list[BeamSearchSequence], count: int) -> list[Candidates]:
        steps.append(len(beams))
        return [[(EOS, -0.01), (1, -5.0), (2, -5.5), (3, -6.0)][:count] for _ in beams]

    search([Tokens([1])], BeamSearchParams(2, 100, length_penalty=0.0), (EOS,), certain_end)
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("beam_width", bad) for bad in (0, 65, True, 1.5, None)],
        *[("max_tokens", bad) for bad in (0, -1, "8", None)],
        *[("temperature", bad) for bad in (0.5, None)],
        *[("length_penalty", bad) for bad in (math.nan, math.inf, "1", None)],
    ],
)
def test_bad_parameters_are_refused_by_name(field: str, value: object):
    fields = {"beam_width": 2, "max_tokens": 4, field: value}
    with pytest.raises(RequestError, match=f"^{field} must be") as caught:
        check_beam_params(BeamSearchParams(**fields))  # type: ignore[arg-type]
    assert caught.value.field == field
