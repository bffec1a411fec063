"""`Family`: a kind of model, one file each in this package. `Network`: the input of its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from octavo.ir import Attention, Ops, Rope, Tensor, Weight
from octavo.models.config import ModelConfig
from octavo.models.keys import Keys

Shapes = dict[str, tuple[int, ...]]  # weight -> (rows, columns), or (size,) of a vector


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of decoder, from its configuration to its forward pass. octavo/models/<family>.py defines `FAMILY`.

    from_gguf, from_hf: the configuration, from the keys of a GGUF file (without the architecture's prefix) and of a
    config.json. They raise ModelFileError for settings that the forward pass does not support.
    shapes: the weights that a layer must have, and those that it may have, without the prefix "blk.<layer>.".
    sanitize: a Hugging Face folder's tensors under canonical names (names.py) and with GGUF's conventions.
    """

    name: str
    from_gguf: Callable[[Keys], ModelConfig]
    from_hf: Callable[[Keys], ModelConfig]
    shapes: Callable[[ModelConfig, int], tuple[Shapes, Shapes]]
    sanitize: Callable[[Mapping[str, Weight]], dict[str, Weight]]
    forward: Callable[[Ops, Network], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: `layer["attn_q"]` is its tensor attn_q.weight. rope: None where positions are not rotated."""

    index: int
    weights: Mapping[str, Weight]  # without the "blk.<index>." prefix
    attention: Attention
    rope: Rope | None
    eps: float

    def __getitem__(self, name: str) -> Weight:
        return self.weights[f"{name}.weight"]

    def bias(self, name: str) -> Weight | None:
        return self.weights.get(f"{name}.bias")


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder's weights and constants in the order of the forward pass."""

    config: ModelConfig
    embedding: Weight
    layers: tuple[Layer, ...]
    output_norm: Weight
    head: Weight
