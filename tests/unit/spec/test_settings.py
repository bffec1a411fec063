"""speculative_config: what is accepted, and that the error names each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.errors import ConfigError
from octavo.spec.settings import METHODS, parse


def test_none_is_none_and_a_model_is_a_draft_model() -> None:
    assert parse(None) is None
    settings = parse({"model": "a.gguf", "num_speculative_tokens": 4})
    assert settings is not None and settings.method == "draft_model" and settings.count == 4


def test_lists_become_tuples() -> None:
    settings = parse({"method": "layer_skip", "layers": [0, 2]})
    assert settings is not None and settings.layers == (0, 2)
    settings = parse({"method": "auto", "methods": ["ngram", "early_exit"], "layers": 3})
    assert settings is not None and settings.methods == ("ngram", "early_exit") and settings.layers == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_length(method: str) -> None:
    settings = parse({"method": method, "model": "m", "heads": "h"})
    assert settings is not None and settings.count >= 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("ngram", "must be a mapping"),
        ({}, "must have a method"),
        ({"method": "magic"}, "method must be one of ngram"),
        ({"method": "ngram", "num_speculative_token": 3}, "did you mean num_speculative_tokens"),
        ({"method": "ngram", "zzz": 3}, "unknown key 'zzz': it may have method"),
        *[({"method": "ngram", "num_speculative_tokens": bad}, "num_speculative_tokens") for bad in (0, -1, 2.5, True)],
        ({"method": "ngram", "num_speculative_tokens": "3"}, "num_speculative_tokens"),
        ({"method": "ngram", "prompt_lookup_min": 0}, "prompt_lookup_min"),
        ({"method": "ngram", "prompt_lookup_min": 5, "prompt_lookup_max": 4}, "prompt_lookup_max"),
        ({"method": "suffix", "suffix_decoding_max_spec_factor": -1}, "suffix_decoding_max_spec_factor"),
        ({"method": "suffix", "suffix_decoding_min_token_prob": float("nan")}, "suffix_decoding_min_token_prob"),
        ({"method": "suffix", "suffix_decoding_max_cached_tokens": -5}, "suffix_decoding_max_cached_tokens"),
        ({"method": "layer_skip", "layers": [1], "draft_min_probability": "no"}, "draft_min_probability"),
        ({"method": "draft_model"}, "needs 'model'"),
        ({"method": "draft_model", "model": 3}, "needs 'model'"),
        ({"method": "heads"}, "needs 'heads'"),
        ({"method": "auto", "methods": ["heads"]}, "needs 'heads'"),
        ({"method": "auto", "methods": ["auto"]}, "cannot have 'auto'"),
        ({"method": "ngram", "methods": ["suffix"]}, "take methods"),
        ({"method": "layer_skip", "layers": []}, "layers must be"),
        ({"method": "layer_skip", "layers": [0, "1"]}, "layers must be"),
        ({"method": "early_exit", "layers": -1}, "layers must be"),
        ({"method": "early_exit", "layers": 0}, "layers must be"),
        ({"method": "suffix", "suffix_decoding_min_token_prob": 2}, "suffix_decoding_min_token_prob .* from 0 to 1"),
        ({"method": "suffix", "suffix_decoding_max_spec_factor": float("inf")}, "suffix_decoding_max_spec_factor"),
        ({"method": "auto", "methods": "ngram"}, "methods must be a list .* got 'ngram'"),
        ({"method": "auto", "methods": []}, "methods must be a list"),
        ({"method": "auto", "model": ""}, "model must name a file"),
        ({"method": "tree", "tree_width": 0}, "tree_width"),
        ({"method": "tree", "tree_tokens": 0}, "tree_tokens"),
    ],
)
def test_mistakes_are_named(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(config)
