from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from octavo.errors import ModelFileError
from octavo.models.config import ModelConfig
from octavo.models.registry import read_config
from octavo.models.rope import RopeConfig, RopeScaling
from octavo.types import Metadata
from tests.tiny import FAMILIES, Tiny, tiny_config, tiny_metadata


def read(metadata: Metadata) -> ModelConfig:
    """Of GGUF metadata or a config.json."""
    return read_config(metadata)[1]


def windows(config: ModelConfig) -> tuple[int, ...]:
    return tuple(layer.attention.window for layer in config.layers)


def rope(config: ModelConfig, layer: int = -1) -> RopeConfig:
    """By default of the last layer, which has no window in Gemma's tiny models."""
    found = config.layers[layer].rope
    assert found is not None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sources_agree(family: str) -> None:
    tiny = Tiny(family, tied=False)
    gguf, hf = read(tiny_metadata(tiny)), read(tiny_config(tiny))
    for layer in range(2):  # only llama's GGUF files reorder the rotary pairs
        assert rope(gguf, layer) == replace(rope(hf, layer), interleaved=family == "llama")
    assert plain(gguf) == plain(hf)


def plain(config: ModelConfig) -> ModelConfig:
    """But for the rotation."""
    return replace(config, layers=tuple(replace(layer, rope=None) for layer in config.layers))


GGUF_MISTAKES = [
    ({"general.architecture": "mamba"}, "'mamba' is not supported; supported: gemma3, llama, qwen2, qwen3"),
    ({"general.architecture": None}, "neither general.architecture (GGUF) nor model_type (config.json) is set"),
    ({"general.architecture": 7}, "general.architecture must be a string, not 7"),
    ({"llama.block_count": None}, "llama.block_count is missing"),
    ({"llama.block_count": 0}, "llama.block_count must be an integer from 1"),
    ({"llama.block_count": 2.5}, "llama.block_count must be an integer"),
    ({"llama.block_count": True}, "llama.block_count must be an integer"),
    ({"llama.attention.head_count": [4, 2]}, "llama.attention.head_count must be an integer, not [4, 2]"),
    ({"llama.attention.head_count_kv": 3}, "4 heads cannot share 3"),
    ({"llama.attention.key_length": 7, "llama.attention.value_length": 7}, "head dimension 7 is odd"),
    ({"llama.attention.value_length": 8}, "llama.attention.value_length"),
    ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count"),
    ({"llama.rope.freq_base": "fast"}, "llama.rope.freq_base must be a number"),
    ({"llama.rope.freq_base": math.nan}, "llama.rope.freq_base must be a number"),
    ({"llama.attention.layer_norm_rms_epsilon": 1.0}, "llama.attention.layer_norm_rms_epsilon"),
    ({"llama.context_length": 1 << 40}, "llama.context_length"),
    ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "'longrope' is not supported"),
    ({"llama.expert_count": 8}, "llama.expert_count"),
    ({"tokenizer.ggml.tokens": None}, "neither llama.vocab_size nor tokenizer.ggml.tokens"),
]


@pytest.mark.parametrize(("change", "message"), GGUF_MISTAKES)
def test_gguf_mistakes_name_the_key(change: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in {**tiny_metadata(Tiny()), **change}.items() if value is not None}
    with pytest.raises(ModelFileError) as error:
        read(metadata)
    assert message in str(error.value)


HF_MISTAKES = [
    ({"model_type": "gpt_oss"}, "'gpt_oss' is not supported; supported: gemma3, gemma3_text, llama, mistral"),
    ({"hidden_size": None}, "hidden_size is missing"),
    ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
    ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_scaling.rope_type 'longrope' is not supported"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
    ({"rope_scaling": [2]}, "rope_scaling must be a table"),
    ({"layer_types": ["full_attention"]}, "layer_types must list"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
]


@pytest.mark.parametrize(("change", "message"), HF_MISTAKES)
def test_hf_mistakes_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError) as error:
        read({**tiny_config(Tiny()), **change})
    assert message in str(error.value)


def test_gemma_layers_alternate_and_scale() -> None:
    tiny = Tiny("gemma3", layers=12, window=512)
    metadata = tiny_metadata(tiny)
    del metadata["gemma3.attention.sliding_window_pattern"]
    config = read(metadata)
    assert windows(config) == ((512,) * 5 + (0,)) * 2
    assert config.layers[0].attention.scale == 1 / math.sqrt(16)
    wide = {"gemma3.block_count": 62, "gemma3.attention.key_length": 32, "gemma3.attention.value_length": 32}
    assert read({**metadata, **wide}).layers[0].attention.scale == 1 / math.sqrt(64 / 4)


def test_gemma_layers_with_a_window_rotate_in_their_own_way() -> None:
    """They have another base, and are not scaled for a longer context."""
    stretched = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0, "gemma3.rope.freq_base": 1e6}
    config = read({**tiny_metadata(Tiny("gemma3")), **stretched})
    assert (rope(config, 0).theta, rope(config, 0).scaling, rope(config, 0).divided) == (1e4, RopeScaling(), False)
    assert (rope(config, 1).theta, rope(config, 1).scaling.factor, rope(config, 1).divided) == (1e6, 8.0, True)


def test_multimodal_gemma_takes_defaults_for_what_its_text_config_leaves_out() -> None:
    """As google/gemma-3-4b-it's config.json has it."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = read({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    attention = config.layers[5].attention
    assert (attention.heads, attention.kv_heads, attention.head_dim, config.vocab) == (8, 4, 256, 262208)
    assert (rope(config, 5).theta, rope(config, 0).theta, rope(config, 5).scaling.factor) == (1e6, 1e4, 8.0)
    assert windows(config)[:6] == (1024,) * 5 + (0,) and config.tied


def test_transformers_5_rope_parameters() -> None:
    tables = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    config = read({**tiny_config(Tiny("gemma3")), "rope_parameters": tables})
    assert (rope(config, 1).theta, rope(config, 0).theta, rope(config, 1).scaling.factor) == (5e5, 2e4, 4.0)
    plain = {"rope_type": "default", "rope_theta": 3e5}
    assert rope(read({**tiny_config(Tiny()), "rope_parameters": plain})).theta == 3e5


def test_windows_of_mistral_and_qwen() -> None:
    """A key that is left out has the default of transformers' class."""
    mistral = {**tiny_config(Tiny(window=32)), "model_type": "mistral"}
    assert windows(read(mistral)) == (32, 32)
    assert windows(read({**mistral, "sliding_window": None})) == (0, 0)
    del mistral["sliding_window"]
    assert windows(read(mistral)) == (4096, 4096)
    assert windows(read(tiny_config(Tiny(window=32)))) == (0, 0)
    qwen = tiny_config(Tiny("qwen2", layers=4, window=32))
    assert windows(read(qwen)) == (0, 0, 0, 0)  # use_sliding_window is off by default
    switched_on = {**qwen, "use_sliding_window": True}
    assert windows(read({**switched_on, "max_window_layers": 3})) == (0, 0, 0, 32)
    assert windows(read({**switched_on, "max_window_layers": 28})) == (0, 0, 0, 0)
    types = ["full_attention", "sliding_attention"] * 2
    assert windows(read({**switched_on, "layer_types": types})) == (0, 32, 0, 32)
    deep = {**switched_on, "num_hidden_layers": 30}
    del deep["sliding_window"]
    assert windows(read(deep)) == (0,) * 28 + (4096,) * 2


def test_qwen3_takes_the_default_for_a_head_dimension_that_is_left_out() -> None:
    config = {key: value for key, value in tiny_config(Tiny("qwen3")).items() if key != "head_dim"}
    assert read(config).layers[0].attention.head_dim == 128
    assert read({**config, "model_type": "qwen2"}).layers[0].attention.head_dim == 64 // 4


def test_yarn_extends_the_context() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read({**tiny_config(Tiny()), "rope_scaling": scaling}).context == 2048
    linear = {"rope_type": "linear", "factor": 4.0}
    assert read({**tiny_config(Tiny()), "rope_scaling": linear}).context == 512
