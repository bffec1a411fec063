from __future__ import annotations

import numpy as np
import pytest

from octavo.sampling_params import SamplingParams
from octavo.scheduler.commit import agreeing, append, read_logprobs
from octavo.types import Request, Sequence, StepResult, TokenLogprob


@pytest.mark.parametrize(
    ("sampled", "drafts", "count"),
    [([5], [], 0), ([5, 6, 7], [5, 6], 2), ([5, 6, 7], [4, 6], 0), ([5, 6, 7], [5, 7], 1), ([5, 6, 7], [4, 7], 0)],
)
def test_a_draft_stands_only_if_all_before_it_do(sampled: list[int], drafts: list[int], count: int) -> None:
    assert agreeing(sampled, drafts) == count


def sequence(params: SamplingParams, max_length: int = 100) -> Sequence:
    request = Request("r", [1, 2], params, eos_token_ids=(0,))
    return Sequence(request, 0, [1, 2], 2, max_length)


@pytest.mark.parametrize(
    ("params", "tokens", "taken", "reason", "stop"),
    [
        (SamplingParams(), [7, 8, 9], 3, None, None),
        (SamplingParams(), [7, 0, 9], 2, "stop", None),
        (SamplingParams(ignore_eos=True), [7, 0, 9], 3, None, None),
        (SamplingParams(stop_token_ids=(8,)), [7, 8, 9], 2, "stop", 8),
        (SamplingParams(stop_token_ids=(8,), min_tokens=3), [8, 8, 8, 8], 3, "stop", 8),
        (SamplingParams(ignore_eos=True, stop_token_ids=(0,)), [7, 0, 9], 2, "stop", 0),
    ],
)
def test_an_accepted_run_ends_at_its_first_stop(
    params: SamplingParams, tokens: list[int], taken: int, reason: str | None, stop: int | None
) -> None:
    seq = sequence(params)
    assert append(seq, tokens) == taken
    assert seq.token_ids == [1, 2, *tokens[:taken]]
    assert (seq.finish_reason, seq.stop_reason) == (reason, stop)


def test_length_ends_a_run_and_a_stop_at_the_last_token_is_a_stop() -> None:
    seq = sequence(SamplingParams(), max_length=4)
    assert append(seq, [7, 8, 9]) == 2 and seq.finish_reason == "length"
    seq = sequence(SamplingParams(), max_length=4)
    assert append(seq, [7, 0, 9]) == 2 and seq.finish_reason == "stop"
    seq = sequence(SamplingParams(), max_length=2)
    assert append(seq, [7]) == 0 and seq.finish_reason == "length"


def test_logprobs_are_read_per_row_and_cut_to_what_is_wanted() -> None:
    result = StepResult(
        token_ids=np.array([4, 5, 6], np.int32),
        finite=np.ones(3, np.bool_),
        logprobs=np.array([-1, -2, -3], np.float32),
        ranks=np.array([1, 2, 3], np.int32),
        top_ids=np.array([[4, 1], [9, 5], [8, 7]], np.int32),
        top_logprobs=np.array([[-1, -9], [-1, -2], [-0.5, -1]], np.float32),
    )
    assert read_logprobs(result, range(1, 3), 1) == [
        TokenLogprob(5, -2.0, 2, [(9, -1.0)]),
        TokenLogprob(6, -3.0, 3, [(8, -0.5)]),
    ]
    assert read_logprobs(result, range(0, 1), 0) == [TokenLogprob(4, -1.0, 1, [])]
