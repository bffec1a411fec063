"""The shared option tables."""

from __future__ import annotations

import dataclasses

import pytest
import typer

from octavo.assembly.engine import engine_config
from octavo.backends.registry import option_names
from octavo.cli.options import ENGINE, SAMPLING, bias, sampling_params, size
from octavo.config import EngineConfig
from octavo.sampling_params import SamplingParams

# Not on the command line: the engine's seed (--seed is the request's), and backend_options, whose options are there by
# their names.
ENGINE_ONLY = {"seed", "backend_options"}
# n > 1 and prompt_logprobs make no single streamed answer; logprobs is an option of `run` alone. A user at a terminal
# cuts a prompt before it is sent. kv_eviction is an option of
# the engine. The last two change nothing that a terminal shows.
API_ONLY = {
    "n",
    "prompt_logprobs",
    "logprobs",
    "structured_outputs",
    "truncate_prompt_tokens",
    "kv_eviction",
    "output_kind",
    "spaces_between_special_tokens",
    "detokenize",
}


def test_every_setting_has_an_option():
    settings = {f.name for f in dataclasses.fields(EngineConfig)} - ENGINE_ONLY
    assert {row.name for row in ENGINE.rows} == settings | set(option_names())
    assert {row.name for row in SAMPLING.rows} == {f.name for f in dataclasses.fields(SamplingParams)} - API_ONLY


def test_defaults_are_those_of_the_fields():
    values = {row.name: ENGINE.defaults[row.name] for row in ENGINE.rows}
    assert engine_config(**values) == engine_config()


def test_sampling_values_become_parameters():
    values = {row.name: SAMPLING.defaults[row.name] for row in SAMPLING.rows}
    values |= {"stop": ["a", "b"], "logit_bias": [(3, 1.5)], "allowed_token_ids": []}
    made = sampling_params(values)
    assert made.stop == ("a", "b") and made.logit_bias == {3: 1.5} and made.allowed_token_ids is None


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("123", 123), ("1K", 1024), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("800 mb", 800 << 20)],
)
def test_sizes(text: str, bytes_: int):
    assert size(text) == bytes_


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1 2"])
def test_no_sizes(text: str):
    with pytest.raises(typer.BadParameter):
        size(text)


def test_biases():
    assert bias("12=-3.5") == (12, -3.5)
    with pytest.raises(typer.BadParameter, match="TOKEN_ID=BIAS"):
        bias("12")
