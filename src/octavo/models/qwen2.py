"""Qwen2 and Qwen2.5 (2407.10671, 2412.15115): Llama's decoder, with a bias on the q, k and v projections."""

from __future__ import annotations

from dataclasses import replace

from octavo.models import config_gguf, config_hf, llama
from octavo.models.blocks import QKV, bias_shapes, decoder_shapes
from octavo.models.config import ModelConfig
from octavo.models.config_hf import FULL, SLIDING
from octavo.models.family import Shapes
from octavo.models.keys import Keys

HF_DEFAULTS = {  # of transformers' class, for what a config.json leaves out
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def from_hf(keys: Keys) -> ModelConfig:
    return config_hf.decoder(keys.with_defaults(HF_DEFAULTS), upper_windows)


def upper_windows(keys: Keys, layers: int) -> tuple[int, ...]:
    """A window in the layers that `layer_types` lists, or else from `max_window_layers` on, if windows are on."""
    window = config_hf.window(keys) if keys.flag("use_sliding_window", False) else 0
    first = keys.integer("max_window_layers", 0, 1 << 20) if window else layers
    default = [SLIDING if i >= first else FULL for i in range(layers)]
    return config_hf.typed_windows(keys, layers, window, default)


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    return {**decoder_shapes(config, layer), **bias_shapes(config, layer, QKV)}, {}


FAMILY = replace(llama.FAMILY, name="qwen2", from_gguf=config_gguf.decoder, from_hf=from_hf, shapes=shapes)
