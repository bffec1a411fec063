"""From a model file to a `Model`: which family it is of, its weights checked and arranged. Nothing is dequantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from octavo.errors import ModelFileError
from octavo.ir import Attention, Model, Ops, Rope, Tensor, Weight
from octavo.models.blocks import Layer, Network, Shapes
from octavo.models.config import ModelConfig
from octavo.models.config_gguf import config_from_gguf
from octavo.models.config_hf import config_from_hf
from octavo.models.rope import RopeScaling, make_rope
from octavo.weights import Checkpoint
from octavo.weights import open_checkpoint as open_checkpoint
from octavo.weights.artifact import Artifact
from octavo.weights.dequantize import dequantize


class Family(Protocol):
    """What a file octavo/models/<family>.py defines."""

    def forward(self, ops: Ops, net: Network) -> Tensor: ...

    def shapes(self, config: ModelConfig) -> tuple[Shapes, Shapes]:
        """(required, optional) weights of a layer."""

    def sanitize(self, tensors: Mapping[str, Weight]) -> dict[str, Weight]:
        """Hugging Face tensors under canonical names and conventions."""


def load_model(path: str | Path) -> Model:
    """Loads a GGUF file, an artifact or a Hugging Face folder; the weights stay mapped. Raises ModelFileError."""
    return build_model(open_checkpoint(Path(path)))


def build_model(checkpoint: Checkpoint) -> Model:
    """The model of an open checkpoint (whose metadata the tokenizer needs too). Raises ModelFileError."""
    try:
        config, weights = read_checkpoint(checkpoint)
    except ModelFileError as error:
        raise ModelFileError(f"{checkpoint.path}: {error}") from error
    net = arrange(config, weights)
    return Model(
        name=str(checkpoint.metadata.get("general.name") or checkpoint.path.stem),
        vocab_size=config.vocab,
        hidden_size=config.hidden,
        num_layers=config.layers,
        max_context=config.context,
        attention=tuple(layer.attention for layer in net.layers),
        weights=weights,
        forward=partial(_forward, _family(config), net),
    )


def _forward(family: Family, net: Network, ops: Ops, layers: tuple[int, ...] | None = None) -> Tensor:
    return family.forward(ops, net if layers is None else replace(net, layers=tuple(net.layers[i] for i in layers)))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[ModelConfig, dict[str, Weight]]:
    """The configuration and the weights under canonical names, checked against each other."""
    tensors = checkpoint.tensors
    if "general.architecture" in checkpoint.metadata:
        config = config_from_gguf(checkpoint.metadata, tied="output.weight" not in tensors)
        weights = dict(tensors)
    else:
        config = config_from_hf(checkpoint.metadata)
        weights = dict(tensors) if isinstance(checkpoint, Artifact) else _family(config).sanitize(tensors)
        if config.tied:  # some folders store the shared matrix twice
            weights.pop("output.weight", None)
    check_weights(config, weights)
    return config, weights


def check_weights(config: ModelConfig, weights: Mapping[str, Weight]) -> None:
    """Every tensor that the family needs is there with the right shape, and none that it would silently ignore."""
    required, optional = model_shapes(config)
    for name in required.keys() - weights.keys():
        raise ModelFileError(f"tensor {name} is missing, which {config.family} needs")
    for name, weight in weights.items():
        expected = required.get(name) or optional.get(name)
        if expected is None:
            raise ModelFileError(f"tensor {name} is not part of {config.family} as it is supported here")
        if weight.shape != expected:
            raise ModelFileError(f"tensor {name} has shape {weight.shape}; the metadata call for {expected}")


def model_shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """(required, optional) weights of the whole model."""
    required: Shapes = {"token_embd.weight": (config.vocab, config.hidden), "output_norm.weight": (config.hidden,)}
    optional: Shapes = {"rope_freqs.weight": (config.head_dim // 2,)}
    if not config.tied:
        required["output.weight"] = (config.vocab, config.hidden)
    for part, layer in zip((required, optional), _family(config).shapes(config), strict=True):
        part.update({f"blk.{i}.{name}": shape for i in range(config.layers) for name, shape in layer.items()})
    return required, optional


def arrange(config: ModelConfig, weights: Mapping[str, Weight]) -> Network:
    """The weights as a forward pass meets them."""
    parts: list[dict[str, Weight]] = [{} for _ in range(config.layers)]
    for name, weight in weights.items():
        if name.startswith("blk."):
            _, index, rest = name.split(".", 2)
            parts[int(index)][rest] = weight
    ropes = _ropes(config, weights.get("rope_freqs.weight"))
    return Network(
        config=config,
        embedding=weights["token_embd.weight"],
        layers=tuple(
            Layer(i, part, _attention(config, i), ropes[config.windows[i] > 0], config.eps)
            for i, part in enumerate(parts)
        ),
        output_norm=weights["output_norm.weight"],
        head=weights["token_embd.weight" if config.tied else "output.weight"],
    )


def _attention(c: ModelConfig, layer: int) -> Attention:
    return Attention(c.heads, c.kv_heads, c.head_dim, c.attention_scale, c.windows[layer], c.attention_softcap)


def _ropes(c: ModelConfig, divisors: Weight | None) -> tuple[Rope, Rope]:
    """Of layers that see everything, and of windowed ones: one object when they agree."""
    factors = None if divisors is None else np.asarray(dequantize(divisors))
    everywhere = make_rope(c.head_dim, c.rope_theta, c.rope_scaling, c.rope_interleaved, factors)
    if c.local_rope_theta is None:
        return everywhere, everywhere
    return everywhere, make_rope(c.head_dim, c.local_rope_theta, RopeScaling(), c.rope_interleaved)


def _family(config: ModelConfig) -> Family:
    """Imported when first needed: a llama user never loads gemma3.py."""
    return cast(Family, import_module(f"octavo.models.{config.family}"))
