"""Builds a `Model` from a model file: finds its family, checks and arranges its weights. Nothing is dequantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from octavo.errors import ModelFileError
from octavo.ir import Model, Ops, Tensor, Weight
from octavo.models.config import ModelConfig
from octavo.models.family import Family, Layer, Network, Shapes
from octavo.models.keys import Keys
from octavo.models.rope import make_rope
from octavo.types import Metadata
from octavo.weights import Checkpoint
from octavo.weights import open_checkpoint as open_checkpoint
from octavo.weights.artifact import Artifact
from octavo.weights.dequantize import dequantize


@dataclass(frozen=True, slots=True)
class Names:
    """What a family is called in files: GGUF's `general.architecture`, and config.json's `model_type`."""

    gguf: tuple[str, ...]
    hf: tuple[str, ...]


# octavo/models/<family>.py is imported when it is first needed: a llama user never loads gemma3.py.
FAMILIES = {
    "llama": Names(gguf=("llama",), hf=("llama",)),
    "mistral": Names(gguf=(), hf=("mistral",)),
    "qwen2": Names(gguf=("qwen2",), hf=("qwen2",)),
    "qwen3": Names(gguf=("qwen3",), hf=("qwen3",)),
    "gemma3": Names(gguf=("gemma3",), hf=("gemma3", "gemma3_text")),
}


def load_model(path: str | Path) -> Model:
    """Loads a GGUF file, an artifact or a Hugging Face folder; the weights stay mapped. Raises ModelFileError."""
    return build_model(open_checkpoint(Path(path)))


def build_model(checkpoint: Checkpoint) -> Model:
    """The model of an open checkpoint (whose metadata the tokenizer needs too). Raises ModelFileError."""
    try:
        family, config, weights = read_checkpoint(checkpoint)
    except ModelFileError as error:
        raise ModelFileError(f"{checkpoint.path}: {error}") from error
    net, stated = arrange(config, weights), checkpoint.metadata.get("general.name")
    return Model(
        name=stated if isinstance(stated, str) and stated else checkpoint.path.stem,
        vocab_size=config.vocab,
        hidden_size=config.hidden,
        num_layers=len(config.layers),
        max_context=config.context,
        attention=tuple(layer.attention for layer in config.layers),
        weights=weights,
        forward=partial(_forward, family, net),
        has_head=config.tied or "output.weight" in weights,
    )


def _forward(family: Family, net: Network, ops: Ops, layers: tuple[int, ...] | None = None) -> Tensor:
    return family.forward(ops, net if layers is None else replace(net, layers=tuple(net.layers[i] for i in layers)))


def read_config(metadata: Metadata) -> tuple[Family, ModelConfig]:
    """The family named by GGUF metadata or a config.json, and the configuration it reads. Raises ModelFileError.

    A multimodal config.json is read from its `text_config`.
    """
    gguf = "general.architecture" in metadata
    if not gguf and "model_type" not in metadata:
        raise ModelFileError("model metadata: neither general.architecture (GGUF) nor model_type (config.json) is set")
    name = Keys(metadata).text("general.architecture" if gguf else "model_type")
    known = {each: file for file, names in FAMILIES.items() for each in (names.gguf if gguf else names.hf)}
    if name not in known:
        raise ModelFileError(f"architecture {name!r} is not supported; supported: {', '.join(sorted(known))}")
    family: Family = import_module(f"octavo.models.{known[name]}").FAMILY
    if gguf:
        return family, family.from_gguf(Keys(metadata, f"{name}."))
    text = metadata.get("text_config")
    return family, family.from_hf(Keys(text if isinstance(text, dict) else metadata))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[Family, ModelConfig, dict[str, Weight]]:
    """The configuration and the weights under canonical names, checked against each other."""
    tensors = checkpoint.tensors
    family, config = read_config(checkpoint.metadata)
    if "general.architecture" in checkpoint.metadata:  # GGUF has no key that says so
        config, weights = replace(config, tied="output.weight" not in tensors), dict(tensors)
    else:
        weights = dict(tensors) if isinstance(checkpoint, Artifact) else family.sanitize(tensors)
        head = weights.get("output.weight")
        if config.tied and head is not None:
            # Some folders store the shared matrix twice. If the two differ, transformers 5 takes both.
            if same_values(head, weights.get("token_embd.weight")):
                del weights["output.weight"]
            else:
                config = replace(config, tied=False)
    headless = not config.tied and "output.weight" not in weights and is_base(checkpoint.metadata)
    check_weights(family, replace(config, tied=True) if headless else config, weights)
    return family, config, weights


def is_base(metadata: Metadata) -> bool:
    """Whether a config.json says that the language-model head was left out: a MistralModel, no MistralForCausalLM."""
    names, kind = metadata.get("architectures"), str(metadata.get("model_type")).replace("_", "")
    return isinstance(names, list) and [str(name).lower() for name in names] == [f"{kind}model"]


def same_values(a: Weight, b: Weight | None) -> bool:
    return b is not None and (a.type, a.shape) == (b.type, b.shape) and np.array_equal(a.data, b.data)


def check_weights(family: Family, config: ModelConfig, weights: Mapping[str, Weight]) -> None:
    """Checks that every required tensor has the right shape and that no tensor would be silently ignored.

    Unknown names come first: they say what a missing tensor may be called in this file.
    """
    required, optional = model_shapes(family, config)
    for name in weights.keys() - required.keys() - optional.keys():
        raise ModelFileError(f"tensor {weights[name].name!r} is unknown: {family.name} has no such part here")
    for name in required.keys() - weights.keys():
        raise ModelFileError(f"tensor {name} is missing, which {family.name} needs")
    for name, expected in {**required, **optional}.items():
        if name in weights and weights[name].shape != expected:
            shape = weights[name].shape
            raise ModelFileError(f"tensor {weights[name].name} has shape {shape}; the metadata call for {expected}")


def model_shapes(family: Family, config: ModelConfig) -> tuple[Shapes, Shapes]:
    """(required, optional) weights of the whole model."""
    required: Shapes = {"token_embd.weight": (config.vocab, config.hidden), "output_norm.weight": (config.hidden,)}
    optional: Shapes = {}
    if not config.tied:
        required["output.weight"] = (config.vocab, config.hidden)
    for i, layer in enumerate(config.layers):
        if layer.rope and layer.rope.divided:
            optional["rope_freqs.weight"] = (layer.rope.dim // 2,)
        for part, shapes in zip((required, optional), family.shapes(config, i), strict=True):
            part.update({f"blk.{i}.{name}": shape for name, shape in shapes.items()})
    return required, optional


def arrange(config: ModelConfig, weights: Mapping[str, Weight]) -> Network:
    """The weights in the order of the forward pass. Layers with equal rope settings share one `Rope`."""
    parts: list[dict[str, Weight]] = [{} for _ in config.layers]
    for name, weight in weights.items():
        if name.startswith("blk."):
            _, index, rest = name.split(".", 2)
            parts[int(index)][rest] = weight
    divisors = dequantize(weights["rope_freqs.weight"]) if "rope_freqs.weight" in weights else None
    ropes = {layer.rope: make_rope(layer.rope, divisors) for layer in config.layers if layer.rope}
    return Network(
        config=config,
        embedding=weights["token_embd.weight"],
        layers=tuple(
            Layer(i, part, layer.attention, ropes[layer.rope] if layer.rope else None, config.eps)
            for i, (part, layer) in enumerate(zip(parts, config.layers, strict=True))
        ),
        output_norm=weights["output_norm.weight"],
        # Not tied and without a head, as a base model: see `Model.has_head`.
        head=weights.get("output.weight", weights["token_embd.weight"]),
    )
