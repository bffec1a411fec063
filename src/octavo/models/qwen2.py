"""Qwen2 and Qwen2.5 (2407.10671, 2412.15115): Llama's decoder, with a bias on the q, k and v projections."""

from __future__ import annotations

from octavo.models.blocks import Shapes, bias_shapes, decoder_shapes
from octavo.models.config import ModelConfig
from octavo.models.llama import forward, sanitize

__all__ = ["forward", "sanitize", "shapes"]


def shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """A layer's weights: those it must have, those it may have."""
    return {**decoder_shapes(config), **bias_shapes(config)}, {}
