"""Builds a proposer from `speculative_config`: loads files the methods need, and shares the engine's parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

from octavo.backends.base import Backend
from octavo.backends.registry import device
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.errors import ConfigError, OctavoError
from octavo.ir import Model
from octavo.kv import manager
from octavo.models.registry import build_model, open_checkpoint
from octavo.spec.controller import Controller
from octavo.spec.draft_model import ModelDrafter
from octavo.spec.heads import Heads, HeadsDrafter
from octavo.spec.layer_skip import SelfDrafter
from octavo.spec.ngram import NgramDrafter
from octavo.spec.proposer import Drafter, Fixed, Proposer
from octavo.spec.settings import CONTEXT_METHODS, SpecSettings
from octavo.spec.suffix import SuffixDrafter
from octavo.spec.suffix_shared import SharedSuffixDrafter
from octavo.spec.tree import Branching, TreeDrafter
from octavo.tokenizer import Tokenizer
from octavo.weights.aliases import home
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.sources import resolve

MARGIN = 2  # default number of tokens by which an n-gram draft exceeds its match
SPOT = 101  # stride of the token ids at which two vocabularies are compared


@dataclasses.dataclass(frozen=True)
class Speculation:
    """Settings of speculation and the parts of its engine. load_words: returns an open checkpoint's tokenizer."""

    settings: SpecSettings
    engine: Engine
    model: Model
    backend: Backend
    tokenizer: Tokenizer
    config: EngineConfig
    cache: CacheConfig
    source: str
    make_backend: Callable[..., Backend]  # assemble's
    load_words: Callable[[Checkpoint, None, str | None], Tokenizer]  # assemble's

    def proposer(self) -> Proposer:
        """Returns the proposer for the settings. Raises ConfigError or ModelFileError."""
        settings = self.settings
        if settings.method == "auto":
            drafters = [self.drafter(method) for method in settings.methods or self._worthwhile()]
            return Controller(drafters, settings.count, device(self.config.backend).trees)
        return Fixed(self.drafter(settings.method), settings.count)

    def _worthwhile(self) -> tuple[str, ...]:
        """The default methods of "auto": those without files, those with given files, and tuned layers."""
        settings = self.settings
        given = {"draft_model": settings.model, "heads": settings.heads, "layer_skip": settings.layers}
        if settings.layers is None and self.config.backend != "null":
            given["layer_skip"] = tuned_layers(self.source, self.model, paying=True)
        return (*CONTEXT_METHODS, *(method for method, needed in given.items() if needed is not None))

    def drafter(self, method: str) -> Drafter:
        return MAKERS[method](self)

    def ngram(self) -> Drafter:
        s = self.settings
        margin = MARGIN if s.method == "ngram" and s.num_speculative_tokens is None else None
        return NgramDrafter(s.prompt_lookup_min, s.prompt_lookup_max, margin)

    def suffix(self) -> Drafter:
        s = self.settings
        options = (s.suffix_decoding_max_spec_factor, s.suffix_decoding_min_token_prob, s.prompt_lookup_min)
        if kept := s.suffix_decoding_max_cached_tokens:
            return SharedSuffixDrafter(kept, *options)
        return SuffixDrafter(*options)

    def layer_skip(self) -> Drafter:
        layers = self.settings.layers
        if isinstance(layers, int):
            raise ConfigError("speculative_config: layers of layer_skip must be a list (early_exit takes a count)")
        if layers is None and (layers := tuned_layers(self.source, self.model)) is None:
            raise ConfigError(
                "speculative_config: layer_skip needs layers: run `octavo tune layers MODEL`, or give a list"
            )
        return self._self_drafter("layer_skip", layers)

    def early_exit(self) -> Drafter:
        layers = self.settings.layers
        if not isinstance(layers, int):
            raise ConfigError("speculative_config: early_exit needs layers: the number of first layers to run")
        return self._self_drafter("early_exit", tuple(range(layers)))

    def _self_drafter(self, name: str, layers: tuple[int, ...]) -> Drafter:
        count = self.model.num_layers
        if name == "early_exit" and len(layers) > count:
            raise ConfigError(f"speculative_config: layers of early_exit must be at most {count}; got {len(layers)}")
        if not all(0 <= layer < count for layer in layers) or list(layers) != sorted(set(layers)):
            raise ConfigError(f"speculative_config: layers must ascend and be below {count}; got {list(layers)}")
        backend = self.backend.share(self.model.with_layers(layers))
        least = self.settings.draft_min_probability
        return SelfDrafter(name, backend, self.engine.cache, self.model.vocab_size, least)

    def draft_model(self) -> Drafter:
        assert self.settings.model is not None
        try:
            checkpoint = open_checkpoint(resolve(self.settings.model))
        except OctavoError as error:
            raise ConfigError(f"speculative_config: model: {error}") from None
        model = build_model(checkpoint)
        if not model.has_head:
            raise ConfigError(f"speculative_config: the draft model {model.name} has no language-model head")
        self._check_vocabulary(model, self.load_words(checkpoint, None, self.config.tokenizer_pre))
        blocks = self.settings.draft_kv_blocks or self.cache.num_blocks
        cache = dataclasses.replace(self.cache, num_blocks=blocks)
        length = min(self.config.max_model_len or model.max_context, model.max_context)
        config = dataclasses.replace(self.config, max_model_len=length)
        backend = self.make_backend(model, config, cache, beside=self.backend)
        budget = config.max_num_batched_tokens
        least = self.settings.draft_min_probability
        return ModelDrafter(backend, manager.create(config, cache), model.vocab_size, budget, least)

    def _check_vocabulary(self, model: Model, words: Tokenizer) -> None:
        spots = range(0, self.tokenizer.vocab_size, SPOT)
        same = words.vocab_size == self.tokenizer.vocab_size and words.eos_ids == self.tokenizer.eos_ids
        if not (
            same
            and model.vocab_size == self.model.vocab_size
            and all(words.token_bytes(spot) == self.tokenizer.token_bytes(spot) for spot in spots)
        ):
            raise ConfigError(
                f"speculative_config: the draft model {model.name} ({model.vocab_size} tokens) must have the "
                f"vocabulary of {self.model.name} ({self.model.vocab_size} tokens)"
            )

    def heads(self) -> Drafter:
        assert self.settings.heads is not None
        heads = Heads.load(Path(self.settings.heads))
        heads.check(self.model.hidden_size, self.model.vocab_size)
        return HeadsDrafter(heads, self.settings.draft_min_probability)

    def tree(self) -> Drafter:
        parts = [cast(Branching, self.drafter(method)) for method in self.settings.methods or CONTEXT_METHODS]
        trees = device(self.config.backend).trees
        return TreeDrafter(parts, self.settings.tree_width, self.settings.tree_tokens, trees)


MAKERS: dict[str, Callable[[Speculation], Drafter]] = {
    "ngram": Speculation.ngram,
    "suffix": Speculation.suffix,
    "draft_model": Speculation.draft_model,
    "layer_skip": Speculation.layer_skip,
    "early_exit": Speculation.early_exit,
    "heads": Speculation.heads,
    "tree": Speculation.tree,
}


def tuned_path(source: str) -> Path:
    """The file in which `octavo tune layers` saves a model's layers."""
    return home() / "tuned" / f"{Path(source).name}.layers.json"


def tuned_layers(source: str, model: Model, paying: bool = False) -> tuple[int, ...] | None:
    """Returns the layers saved for this model, or None. paying: only layers with an expected speed-up above 1."""
    try:
        found = json.loads(tuned_path(source).read_text())
        layers, speedup = tuple(map(int, found["layers"])), float(found["expected_speedup"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = found.get("num_layers") == model.num_layers and (speedup > 1 or not paying)
    return layers if usable else None
