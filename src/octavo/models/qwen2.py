"""Qwen2 and Qwen2.5 (2407.10671, 2412.15115): Llama's decoder, with a bias on the q, k and v projections."""

from __future__ import annotations

from dataclasses import replace

from octavo.models import config_gguf, config_hf, llama
from octavo.models.blocks import bias_shapes, decoder_shapes
from octavo.models.config import ModelConfig
from octavo.models.family import Shapes
from octavo.models.keys import Keys


def from_hf(keys: Keys) -> ModelConfig:
    return config_hf.decoder(keys, upper_windows)


def upper_windows(keys: Keys, layers: int) -> tuple[int, ...]:
    """A window in the layers from `max_window_layers` on, if windows are switched on."""
    first = keys.integer("max_window_layers", 0, 1 << 20, layers) if keys.flag("use_sliding_window", False) else layers
    window = config_hf.window(keys)
    return tuple(window if i >= first else 0 for i in range(layers))


def shapes(config: ModelConfig, layer: int) -> tuple[Shapes, Shapes]:
    return {**decoder_shapes(config, layer), **bias_shapes(config, layer)}, {}


FAMILY = replace(llama.FAMILY, name="qwen2", from_gguf=config_gguf.decoder, from_hf=from_hf, shapes=shapes)
