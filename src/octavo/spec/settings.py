"""`speculative_config`: a mapping with vLLM's names where vLLM has the same thing. Every error names the key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.errors import ConfigError

# Each method with its longest draft, unless `num_speculative_tokens` says otherwise. `speculation.MAKERS` makes them.
METHODS = {
    "ngram": 24,
    "suffix": 24,
    "draft_model": 3,
    "layer_skip": 3,
    "early_exit": 3,
    "heads": 3,
    "tree": 4,
    "auto": 15,
}
CONTEXT_METHODS = ("ngram", "suffix")  # they need only the text


@dataclass(frozen=True, slots=True)
class SpecSettings:
    """method: "auto" weighs several `methods` and drafts nothing where that is best; "tree" merges their drafts.

    num_speculative_tokens: the longest draft (of "tree": levels); None is the method's own default, and an n-gram
    draft then is as long as its match is sure.
    prompt_lookup_min, _max: tokens that must match (ngram, suffix), and that may (ngram).
    suffix_decoding_*: tokens drafted for each token matched; how probable a draft must be as a whole; tokens of earlier
    requests' outputs to keep and draft from (0: none).
    model: the draft model's source (draft_model). heads: a file of `octavo train heads`.
    draft_kv_blocks: blocks of the draft model's KV pool; None: as many as the main pool has.
    draft_min_probability: a greedy draft of a model or of heads ends before a token that is less probable.
    layers: those that layer_skip keeps, or how many early_exit runs; None: what `octavo tune layers` found.
    tree_width: branches at a node. tree_tokens: nodes of a tree.
    """

    method: str
    num_speculative_tokens: int | None = None
    prompt_lookup_min: int = 1
    prompt_lookup_max: int = 16
    suffix_decoding_max_spec_factor: float = 2.0
    suffix_decoding_min_token_prob: float = 0.1
    suffix_decoding_max_cached_tokens: int = 0
    model: str | None = None
    heads: str | None = None
    draft_kv_blocks: int | None = None
    draft_min_probability: float = 0.3
    layers: tuple[int, ...] | int | None = None
    methods: tuple[str, ...] | None = None
    tree_width: int = 3
    tree_tokens: int = 12

    @property
    def count(self) -> int:
        """The longest draft."""
        return self.num_speculative_tokens or METHODS[self.method]


MOST = 1000  # times the match, of a draft
AT_LEAST_ONE = ("num_speculative_tokens", "prompt_lookup_min", "draft_kv_blocks", "tree_width", "tree_tokens")

SHARES = ("suffix_decoding_min_token_prob", "draft_min_probability")


def parse(config: Mapping[str, Any] | None) -> SpecSettings | None:
    """None for None. {"model": ...} alone means draft_model. Raises ConfigError."""
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise ConfigError(f"speculative_config must be a mapping such as {{'method': 'auto'}}; got {config!r}")
    known = [field.name for field in dataclasses.fields(SpecSettings)]
    for name in config.keys() - set(known):
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it may have {', '.join(known)}"
        raise ConfigError(f"speculative_config has an unknown key {name!r}: {hint}")
    values = {"method": "draft_model"} | dict(config) if "model" in config else dict(config)
    for name in ("layers", "methods"):
        if isinstance(values.get(name), list | tuple):
            values[name] = tuple(values[name])
    if "method" not in values:
        raise ConfigError(f"speculative_config must have a method: one of {', '.join(METHODS)}")
    return _check(SpecSettings(**values))


def _check(settings: SpecSettings) -> SpecSettings:
    if settings.method not in METHODS:
        raise ConfigError(f"speculative_config: method must be one of {', '.join(METHODS)}; got {settings.method!r}")
    for name in AT_LEAST_ONE:
        value = getattr(settings, name)
        if value is not None and not (_is_integer(value) and value >= 1):
            raise ConfigError(f"speculative_config: {name} must be an integer of at least 1; got {value!r}")
    if not _is_integer(longest := settings.prompt_lookup_max) or longest < settings.prompt_lookup_min:
        raise ConfigError(f"speculative_config: prompt_lookup_max must be at least prompt_lookup_min; got {longest!r}")
    for name in SHARES:
        if not _is_between(value := getattr(settings, name), 0, 1):
            raise ConfigError(f"speculative_config: {name} must be a number from 0 to 1; got {value!r}")
    if not _is_between(factor := settings.suffix_decoding_max_spec_factor, 0, MOST):
        raise ConfigError(
            f"speculative_config: suffix_decoding_max_spec_factor must be a number from 0 to {MOST}; got {factor!r}"
        )
    if not _is_integer(kept := settings.suffix_decoding_max_cached_tokens) or kept < 0:
        raise ConfigError(f"speculative_config: suffix_decoding_max_cached_tokens must be 0 or more; got {kept!r}")
    return _check_parts(settings)


def _check_parts(settings: SpecSettings) -> SpecSettings:
    parts = () if settings.methods is None else settings.methods
    if not isinstance(parts, tuple) or (settings.methods is not None and not parts):
        raise ConfigError(f"speculative_config: methods must be a list of at least one method; got {parts!r}")
    if settings.method in ("auto", "tree"):
        for part in parts:
            if part not in METHODS or part in ("auto", "tree"):
                raise ConfigError(f"speculative_config: methods cannot have {part!r}")
    elif parts:
        raise ConfigError('speculative_config: only the methods "auto" and "tree" take methods')
    used = {settings.method, *parts}
    for method, key in (("draft_model", "model"), ("heads", "heads")):
        if method in used and not isinstance(getattr(settings, key), str):
            raise ConfigError(f"speculative_config: method {method!r} needs {key!r}: a file or source")
        if getattr(settings, key) == "":
            raise ConfigError(f"speculative_config: {key} must name a file or source; got ''")
    layers = settings.layers
    whole = [layers] if _is_integer(layers) else layers
    listed = isinstance(whole, list | tuple) and whole and all(map(_is_index, whole))
    if layers is not None and not (listed and layers != 0):
        raise ConfigError(
            "speculative_config: layers must be a list of layer numbers, or their count, at least 1; "
            f"got {list(layers) if isinstance(layers, tuple) else layers!r}"
        )
    return settings


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_between(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
