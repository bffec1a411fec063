"""Puts an engine together: model file -> model, tokenizer, cache, backend. Every "auto" setting gets its value here."""

from __future__ import annotations

import dataclasses
import difflib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.backends.base import Backend
from octavo.config import CacheConfig, EngineConfig, check
from octavo.engine import Engine
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.kv import planner
from octavo.models.registry import build_model, open_checkpoint
from octavo.spec.settings import parse
from octavo.tokenizer import Tokenizer
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.sources import resolve

Progress = Callable[[int, int], None]

# Settings that can say only one thing here, with the values that say it.
SAME_EVERYWHERE: dict[str, tuple[Any, ...]] = {
    "dtype": ("auto", "float32"),
    "quantization": (None, "gguf"),
    "tensor_parallel_size": (1,),
    "trust_remote_code": (False,),
    "kv_eviction": (None,),
}
REASONS = {
    "dtype": "activations are float32 and weights stay as the file has them; kv_cache_dtype sets the cache's",
    "quantization": "the file says how its weights are quantised",
    "tensor_parallel_size": "one process runs the model",
    "trust_remote_code": "no code is ever loaded with a model",
    "kv_eviction": "there is no eviction yet",
}


@dataclass(frozen=True, eq=False)
class Assembly:
    """A loaded model, ready to run. `config` and `cache_config` have no "auto" left in them."""

    engine: Engine
    tokenizer: Tokenizer
    model: Model
    backend: Backend
    config: EngineConfig
    cache_config: CacheConfig

    def close(self) -> None:
        self.backend.close()


def engine_config(**settings: Any) -> EngineConfig:
    """EngineConfig from keyword arguments, with vLLM's names. Raises ConfigError for an unknown one, or a bad value."""
    for name, values in SAME_EVERYWHERE.items():
        if name in settings and settings.pop(name) not in values:
            allowed = " or ".join(map(repr, values))
            raise ConfigError(f"{name} must be {allowed}: {REASONS[name]}")
    share = settings.pop("gpu_memory_utilization", None)  # there is no GPU to share; kv_cache_memory sizes the cache
    if share is not None and not (isinstance(share, int | float) and 0 < share <= 1):
        raise ConfigError(f"gpu_memory_utilization must be above 0 and at most 1; got {share!r}")
    known = [field.name for field in dataclasses.fields(EngineConfig)]
    for name in settings.keys() - set(known):
        close = difflib.get_close_matches(name, [*known, *SAME_EVERYWHERE], n=1)
        hint = f"did you mean {close[0]}?" if close else f"known settings are {', '.join([*known, *SAME_EVERYWHERE])}"
        raise ConfigError(f"unknown setting {name!r}: {hint}")
    return check(EngineConfig(**settings))


def assemble(
    source: str | Path,
    config: EngineConfig,
    tokenizer: str | Path | None = None,
    progress: Progress | None = None,
) -> Assembly:
    """Loads the model at `source` (a path, an alias, hf:...). tokenizer: a tokenizer.json, or a folder that has one.

    progress: called now and then with the bytes of the file that are packed, and in all.

    Raises ModelFileError, TokenizerError, ConfigError or CapacityError.
    """
    check(config)
    settings = parse(config.speculative_config)
    with _no_collections():
        checkpoint = open_checkpoint(resolve(str(source)))
        model = build_model(checkpoint)
        config, cache = planner.resolve(config, model.attention, model.max_context, checkpoint.size)
        with ThreadPoolExecutor(1) as side:  # the tokenizer is built while native code packs the weights
            reading = side.submit(load_tokenizer, checkpoint, tokenizer)
            backend = make_backend(model, config, cache, progress)
            try:
                words = reading.result()
                words.check(model.vocab_size)
            except BaseException:
                backend.close()
                raise
    engine = Engine(backend, config, cache, model.vocab_size)
    if settings is not None:
        from octavo.assembly.speculation import Speculation

        parts = (engine, model, backend, words, config, cache, str(source))
        engine.speculate(Speculation(settings, *parts, make_backend, load_tokenizer).proposer())
    return Assembly(engine, words, model, backend, config, cache)


@contextmanager
def _no_collections() -> Iterator[None]:
    """A tokenizer is hundreds of thousands of objects, all of which stay: looking for garbage among them as they come
    takes a tenth of the time that a packed model needs to load."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_tokenizer(checkpoint: Checkpoint, source: str | Path | None = None) -> Tokenizer:
    """The tokenizer that came with the model, or the one at `source`."""
    if source is not None:
        return Tokenizer.from_file(source)
    if "general.architecture" in checkpoint.metadata:  # GGUF's, in a file or an artifact
        return Tokenizer.from_gguf(checkpoint.metadata)
    return Tokenizer.from_file(checkpoint.path)


def make_backend(
    model: Model,
    config: EngineConfig,
    cache: CacheConfig,
    progress: Progress | None = None,
    beside: Backend | None = None,
) -> Backend:
    """The backend that `config.backend` names; only that one is imported. config: resolved.

    beside: a backend that never runs at the same time as this one, so that they can share threads.
    """
    if config.backend == "null":
        from octavo.backends.null import NullBackend

        return NullBackend(cache, model.vocab_size)
    if config.backend == "reference":
        from octavo.backends.reference import ReferenceBackend

        return ReferenceBackend(model, cache)
    from octavo.backends.cpu.backend import CpuBackend

    assert config.max_model_len is not None
    budget = config.max_num_batched_tokens
    return CpuBackend(
        model,
        cache,
        threads=config.threads,
        pool=beside.pool if isinstance(beside, CpuBackend) else None,
        isa=config.isa,
        max_tokens=budget if config.enable_chunked_prefill else max(budget, config.max_model_len),
        max_seqs=config.max_num_seqs,
        max_context=config.max_model_len,
        progress=progress,
    )
