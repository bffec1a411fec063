"""Assembles an engine: model file -> model, tokenizer, cache, backend. Resolves every "auto" setting."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo import ahead
from octavo.assembly import kv_tiers, vllm_settings
from octavo.backends.base import Backend, Progress
from octavo.backends.plan.key_offsets import key_offsets
from octavo.backends.reference_kv import QUANTISED
from octavo.backends.registry import choose, device, option_names, owner
from octavo.config import CacheConfig, EngineConfig, check
from octavo.engine import Engine
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.kv import planner
from octavo.models.registry import build_model, open_checkpoint
from octavo.spec.settings import parse
from octavo.tokenizer import Tokenizer
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.pooling import stated_pooling
from octavo.weights.sources import resolve


@dataclass(frozen=True, eq=False)
class Assembly:
    """A loaded model, ready to run. `config` and `cache_config` have no "auto" left in them."""

    engine: Engine
    tokenizer: Tokenizer
    model: Model
    backend: Backend
    config: EngineConfig
    cache_config: CacheConfig
    pooling: str | None  # of embeddings, as the model's file says: see `weights.pooling`

    def close(self) -> None:
        try:
            self.engine.close()
        finally:
            self.backend.close()


def engine_config(**settings: Any) -> EngineConfig:
    """EngineConfig from keyword arguments, with vLLM's names (`vllm_settings`) and those of the backend's own options.

    None means the default, as in vLLM. Raises ConfigError for an unknown one, or a bad value.
    """
    if "backend" in settings:
        settings["backend"] = choose(settings["backend"])
    unused = {name: value for name, value in settings.items() if name in vllm_settings.WITHOUT_EFFECT}
    settings = vllm_settings.translate(settings)
    if isinstance(folder := settings.get("kv_disk_cache"), os.PathLike):
        settings["kv_disk_cache"] = os.fspath(folder)
    fields = [field.name for field in dataclasses.fields(EngineConfig)]
    given = {name: value for name, value in settings.items() if name in fields and value is not None}
    config = check(EngineConfig(**given))
    others = {name: value for name, value in settings.items() if name not in fields}
    options, foreign = _options(config.backend, {**config.backend_options, **others})
    kv_tiers.check(config, device(config.backend))
    vllm_settings.name_without_effect(unused | foreign)
    return dataclasses.replace(config, backend_options=options)


def _options(backend: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the backend's own options, as given or by default; those given that belong to other backends), all checked."""
    own, foreign = dict(device(backend).options), dict[str, Any]()
    for name, value in given.items():
        if (found := owner(name, backend)) is None:
            raise _unknown(name)
        device(found).check_options({name: value})
        (own if found == backend else foreign)[name] = value
    return own, foreign


def _unknown(name: str) -> ConfigError:
    ours = [*(field.name for field in dataclasses.fields(EngineConfig)), *option_names()]
    close = difflib.get_close_matches(name, [*ours, *vllm_settings.KNOWN], n=1)
    hint = f"did you mean {close[0]}?" if close else f"known settings are {', '.join(ours)}"
    return ConfigError(f"unknown setting {name!r}: {hint}")


def resolve_config(
    model: Model, config: EngineConfig, weights: int, available: int | None = None
) -> tuple[EngineConfig, CacheConfig]:
    """`kv.planner.resolve` for a model on the device that `config.backend` names, whose options are resolved too."""
    chosen = device(config.backend)
    kv_tiers.check(config, chosen)
    config = dataclasses.replace(config, backend_options=chosen.resolve_options(config.backend_options))
    if config.kv_cache_dtype in QUANTISED and key_offsets(model):  # where a key is in the cache is part of its value
        chosen = dataclasses.replace(chosen, evictions=())
    return planner.resolve(config, chosen, model.attention, model.max_context, weights, available)


def assemble(
    source: str | Path,
    config: EngineConfig,
    tokenizer: str | Path | None = None,
    progress: Progress | None = None,
) -> Assembly:
    """Loads the model at `source` (a path, an alias, hf:...). tokenizer: a tokenizer.json, or a folder with one.

    progress: called with (bytes packed, bytes in all) while the weights are packed.

    Raises ModelFileError, TokenizerError, ConfigError or CapacityError.
    """
    check(config)
    settings = parse(config.speculative_config)
    with _no_collections():
        checkpoint = open_checkpoint(resolve(str(source)))
        model = build_model(checkpoint)
        config, cache = resolve_config(model, config, checkpoint.size)
        with ThreadPoolExecutor(2) as side:  # both while native code packs the weights
            reading = side.submit(load_tokenizer, checkpoint, tokenizer, config.tokenizer_pre)
            hashing = side.submit(kv_tiers.identity, checkpoint, config, cache)
            backend = make_backend(model, config, cache, progress)
            try:
                words = reading.result()
                words.check(model.vocab_size)
                version = device(config.backend).kv_version
                tiers = kv_tiers.create(config, cache, backend, hashing.result(), version, model.name)
            except BaseException:
                backend.close()
                raise
    engine = ahead.create(backend, config, cache, model.vocab_size, tiers=tiers, has_head=model.has_head)
    if settings is not None:
        from octavo.assembly.speculation import Speculation

        parts = (engine, model, backend, words, config, cache, str(source))
        engine.speculate(Speculation(settings, *parts, make_backend, load_tokenizer).proposer())
    return Assembly(engine, words, model, backend, config, cache, stated_pooling(checkpoint))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Switches garbage collection off while a model loads.

    A tokenizer creates hundreds of thousands of objects, and all of them stay. Collections among them take a tenth of
    the load time of a packed model.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_tokenizer(checkpoint: Checkpoint, source: str | Path | None = None, pre: str | None = None) -> Tokenizer:
    """The tokenizer that came with the model, or the one at `source`. pre: see `EngineConfig.tokenizer_pre`."""
    if source is None and "general.architecture" in checkpoint.metadata:  # GGUF's, in a file or an artifact
        return Tokenizer.from_gguf(checkpoint.metadata, pre)
    if pre is not None:
        raise ConfigError(f"tokenizer_pre {pre!r}: only a tokenizer inside a GGUF file can be given a pre-tokenizer")
    return Tokenizer.from_file(checkpoint.path if source is None else source)


def make_backend(
    model: Model,
    config: EngineConfig,
    cache: CacheConfig,
    progress: Progress | None = None,
    beside: Backend | None = None,
) -> Backend:
    """The backend that `config.backend` names. config: resolved. beside: see `backends.base.Device`."""
    return device(config.backend).make(model, config, cache, progress, beside)
