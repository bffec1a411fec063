"""Mistral (2310.06825): Llama's decoder with a window. In GGUF files Mistral's architecture is "llama"."""

from __future__ import annotations

from dataclasses import replace

from octavo.models import config_hf, llama
from octavo.models.config import ModelConfig
from octavo.models.keys import Keys

HF_DEFAULTS = {  # of transformers' class, for what a config.json leaves out
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}


def from_hf(keys: Keys) -> ModelConfig:
    """`sliding_window: null` is no window. Without the key it is 4096."""
    keys = keys.with_defaults(HF_DEFAULTS)
    return config_hf.decoder(keys, lambda keys, layers: config_hf.same_window(keys, layers, config_hf.window(keys)))


FAMILY = replace(llama.FAMILY, name="mistral", from_hf=from_hf)
