"""`check`: every field refuses invalid values, and the error names the field and the valid values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from octavo.errors import RequestError
from octavo.sampling.params import check
from octavo.sampling_params import SamplingParams

VOCAB = 100
BAD_NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -(2**31), "1", True, [], {}]
BAD: dict[str, list[Any]] = {
    "n": [*BAD_NUMBERS, 0, 129, 1.0, None],
    "temperature": [*BAD_NUMBERS, -0.1, 100.1, None],
    "top_p": [*BAD_NUMBERS, 0, -0.1, 1.1, None],
    "top_k": [*BAD_NUMBERS, -2, 1.5, 2**63, None],
    "min_p": [*BAD_NUMBERS, -0.1, 1.1, None],
    "typical_p": [*BAD_NUMBERS, 0.0, 1.1, None],
    "seed": [math.nan, math.inf, 1e308, "1", True, 1.5, 2**64, -(2**63) - 1],
    "presence_penalty": [*BAD_NUMBERS, 2.1, None],
    "frequency_penalty": [*BAD_NUMBERS, -2.1, None],
    "repetition_penalty": [*BAD_NUMBERS, 0, 0.0, None],
    "stop": [7, "", [""], [1], ["a", None], ["a"] * 65, "x" * 1001],
    "stop_token_ids": [7, "1", [-1], [VOCAB], [1.0], [True], ["1"]],
    "include_stop_str_in_output": [1, None, "yes"],
    "ignore_eos": [0, None],
    "max_tokens": [*BAD_NUMBERS, -1, 1.0],
    "min_tokens": [*BAD_NUMBERS, -1, 17, None],
    "logprobs": [*BAD_NUMBERS, -1, 21],
    "prompt_logprobs": [*BAD_NUMBERS, -1, 21],
    "logit_bias": [[], "x", {VOCAB: 1.0}, {-1: 1.0}, {"1": 1.0}, {1: math.nan}, {1: 100.1}, {1: "2"}, {True: 1.0}],
    "allowed_token_ids": [[], (), 7, [VOCAB], [-1], [0.5]],
    "bad_words": [7, "", [""], [1]],
    "skip_special_tokens": [1, None],
    "structured_outputs": [7, "x", {"regex": "a"}],
    "truncate_prompt_tokens": [*BAD_NUMBERS, 0, -2, 1.5],
    "kv_eviction": [7, [], "", "h2o", "sink_recent[16]", "sink_recent(a)", "snapkv(1, 2, 3, 4)"],
    "output_kind": [None, 0, "DELTA"],
    "spaces_between_special_tokens": [1, None],
    "detokenize": [1, None, "no"],
}


def test_every_field_is_covered():
    assert set(BAD) == {field.name for field in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_value_is_refused_by_name(name: str, value: Any):
    with pytest.raises(RequestError, match=rf"^{name} must be .*got ") as caught:
        check(SamplingParams(**{name: value}), VOCAB)
    assert caught.value.field == name
    assert len(str(caught.value)) < 300


def test_message_gives_the_range():
    with pytest.raises(RequestError, match=r"^top_p must be a number above 0 and at most 1; got 1\.5$"):
        check(SamplingParams(top_p=1.5), VOCAB)
    with pytest.raises(RequestError, match=r"^max_tokens must be an integer of at least 0, or None; got -1$"):
        check(SamplingParams(max_tokens=-1), VOCAB)
    with pytest.raises(RequestError, match=r"^logprobs must be an integer from 0 to 20, or None; got 21$"):
        check(SamplingParams(logprobs=21), VOCAB)
    with pytest.raises(RequestError, match=r"^stop_token_ids must be token ids of this model, 0 to 99; got \(100,\)$"):
        check(SamplingParams(stop_token_ids=[100]), VOCAB)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0},
        {"temperature": 100.0, "top_k": 2**40, "top_p": 1, "min_p": 1},
        {"seed": -5},
        {"seed": 2**64 - 1},
        {"max_tokens": None, "min_tokens": 10**12},
        {"max_tokens": 2**63},
        {"max_tokens": 0, "prompt_logprobs": 0},  # score the prompt, generate nothing
        {"logit_bias": {0: -100, VOCAB - 1: 100.0}},
        {"n": np.int64(2), "temperature": np.float32(0.5)},
    ],
)
def test_good_values_pass_unchanged(params: dict[str, Any]):
    asked = SamplingParams(**params)
    assert check(asked, VOCAB) == asked


def test_lists_and_lone_strings_become_tuples():
    loose: dict[str, Any] = {
        "stop": "\n",
        "bad_words": ["a", "b"],
        "stop_token_ids": [1, 2],
        "allowed_token_ids": range(3),
        "logit_bias": None,
    }
    checked = check(SamplingParams(**loose), VOCAB)
    assert checked.stop == ("\n",)
    assert checked.bad_words == ("a", "b")
    assert checked.stop_token_ids == (1, 2)
    assert checked.allowed_token_ids == (0, 1, 2)
    assert checked.logit_bias == {}
    nothing: dict[str, Any] = {"stop": None, "stop_token_ids": None, "bad_words": None}
    assert check(SamplingParams(**nothing), VOCAB) == SamplingParams()


def test_something_else_than_parameters_is_refused():
    with pytest.raises(RequestError, match="must be SamplingParams, not dict"):
        check({"temperature": 1}, VOCAB)  # type: ignore[arg-type]
