"""What a setting costs in quality: a text's next-token distributions, compared with those of a baseline.

All settings read the same text through engines, as `prompt_logprobs` does, in the same chunks. The engines take turns,
so that logits of one chunk are held at a time.

KL divergence: sum over tokens of p log(p / q), in nats, where p is the baseline's distribution. It is 0 if both agree.
It varies much less with the choice of text than perplexity does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from octavo.assembly.engine import Assembly, assemble, engine_config, make_backend
from octavo.backends.base import Backend, Progress
from octavo.bench.written import shipped
from octavo.config import EngineConfig
from octavo.engine import Engine
from octavo.errors import ConfigError
from octavo.kv.planner import check_heads, misfit, token_bytes
from octavo.sampling_params import SamplingParams
from octavo.types import F32, F64, Batch, Compaction, Request, StepResult, Transfers

CHUNK = 128  # tokens whose logits are held at a time: 156 MB for a vocabulary of 150,000, twice
BASELINE = "f32"  # keys and values without rounding


class Logits:
    """A backend that keeps the logits of the last batch, with their targets."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.rows: list[tuple[F32, int]] = []  # (logits [V], target token)

    def transfer(self, transfers: Transfers) -> None:
        self.backend.transfer(transfers)

    def compact(self, compaction: Compaction) -> None:
        self.backend.compact(compaction)

    def run(self, batch: Batch) -> StepResult:
        result = self.backend.run(msgspec.structs.replace(batch, want_logits=True))
        assert result.logits is not None
        self.rows = [(row, target) for row, target in zip(result.logits, batch.targets.tolist(), strict=True)]
        return result

    def share(self, model: Any) -> Backend:
        return self.backend.share(model)

    def memory(self) -> dict[str, int]:
        return self.backend.memory()

    def close(self) -> None:
        self.backend.close()


@dataclass(frozen=True, slots=True)
class Reading:
    """One entry for each scored token: all but the text's first."""

    kld: F64  # KL divergence from the baseline
    nll: F64  # -log of the token's probability
    baseline: F64  # the same for the baseline
    same: F64  # 1 where both have the same most likely token, else 0

    def figures(self) -> dict[str, Any]:
        """ppl: perplexity; ppl_change: its ratio to the baseline's, less 1. Percentiles are of the KL divergence."""
        return {
            "tokens": len(self.kld),
            "ppl": float(np.exp(self.nll.mean())),
            "ppl_baseline": float(np.exp(self.baseline.mean())),
            "ppl_change": float(np.exp((self.nll - self.baseline).mean()) - 1),
            "kld": float(self.kld.mean()),
            "kld_p50": float(np.percentile(self.kld, 50)),
            "kld_p99": float(np.percentile(self.kld, 99)),
            "kld_max": float(self.kld.max()),
            "same_top": float(self.same.mean()),
        }


def measure(
    model: str | Path,
    dtypes: Sequence[str] | None,
    against: str,
    text: str | None,
    tokens: int,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> Iterator[tuple[dict[str, Any], Reading]]:
    """Yields, for each KV dtype, its row of figures and the values behind them.

    dtypes: None is all that the backend has and the model's heads allow, but for the baseline's.
    against: the KV dtype of the baseline, or another model (a file, a folder, an alias), which then runs with an f32
    cache. text: None is the shipped one. tokens: how many of its tokens are read.
    Raises ConfigError for a text that is too short, or a model with another vocabulary, and all errors of `assemble`.
    """
    made = {**settings, "max_model_len": tokens + 1, "max_num_seqs": 1, "enable_prefix_caching": False}
    made |= {"max_num_batched_tokens": settings.get("max_num_batched_tokens") or CHUNK, "speculative_config": None}
    config = engine_config(**made)
    known = known_dtypes(config)
    for dtype in dtypes or ():
        if dtype not in known:
            raise ConfigError(f"kv_cache_dtype must be one or more of {', '.join(known)}; got {dtype!r}")
    same_model = against in known
    first = replace(config, kv_cache_dtype=against if same_model else BASELINE)
    base = assemble(model if same_model else against, first, progress=progress)
    own = base if same_model else assemble(model, replace(config, kv_cache_dtype=BASELINE), progress=progress)
    if own.model.vocab_size != base.model.vocab_size:
        raise ConfigError(
            f"{against} has {base.model.vocab_size} tokens and {model} has {own.model.vocab_size}: "
            "distributions can be compared only over one vocabulary"
        )
    if dtypes is None:
        dtypes = [dtype for dtype in known if dtype != against and misfit(own.model.attention, dtype) is None]
    for dtype in dtypes:
        check_heads(own.model.attention, dtype)
    ids = token_ids(own, shipped("quality.txt") if text is None else text, tokens)
    for dtype, reading in zip(dtypes, compare(base, own, dtypes, ids), strict=True):
        yield row(own, dtype, against, reading), reading
    for parts in {id(base): base, id(own): own}.values():
        parts.close()


def known_dtypes(config: EngineConfig) -> tuple[str, ...]:
    from octavo.backends.registry import device

    return device(config.backend).kv_dtypes


def token_ids(parts: Assembly, text: str, tokens: int) -> list[int]:
    """The text's first `tokens` token ids, with the beginning-of-text token of a model that has one."""
    ids = parts.tokenizer.encode(text)
    if len(ids) < tokens:
        raise ConfigError(
            f"the text has {len(ids)} tokens, but tokens is {tokens}: give a longer text, or fewer tokens"
        )
    return ids[:tokens]


class Reader:
    """An engine that reads the text in steps."""

    def __init__(self, parts: Assembly, backend: Backend, dtype: str, ids: list[int]):
        self.logits = Logits(backend)
        config, cache = replace(parts.config, kv_cache_dtype=dtype), replace(parts.cache_config, dtype=dtype)
        self.engine = Engine(self.logits, config, cache, parts.model.vocab_size)
        self.engine.add(Request("quality", ids, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)))
        self.scores: list[tuple[float, float, float, bool]] = []

    def step(self) -> list[tuple[F32, int]]:
        """The logits of the step's scored tokens, with these tokens."""
        self.logits.rows = []
        if any(delta.finish_reason == "error" for delta in self.engine.step()):
            raise RuntimeError("the engine failed on the text; its log says why")
        return [(logits, target) for logits, target in self.logits.rows if target >= 0]

    def compare(self, baseline: list[tuple[F32, int]]) -> None:
        rows = self.step()
        assert len(rows) == len(baseline), "all engines cut the text into the same chunks"
        self.scores += [score(p, q, target) for (p, target), (q, _) in zip(baseline, rows, strict=True)]

    def reading(self) -> Reading:
        return Reading(*np.array(self.scores, np.float64).T)


def candidate(parts: Assembly, dtype: str) -> Backend:
    """A backend of the same model with this KV dtype, on the same weights where the backend can share them."""
    config, cache = replace(parts.config, kv_cache_dtype=dtype), replace(parts.cache_config, dtype=dtype)
    return make_backend(parts.model, config, cache, None, parts.backend)


def compare(base: Assembly, own: Assembly, dtypes: Sequence[str], ids: list[int]) -> list[Reading]:
    """The readings of each KV dtype of `own`. The engines take turns, a step each."""
    first = Reader(base, base.backend, base.cache_config.dtype, ids)
    others = [Reader(own, candidate(own, dtype), dtype, ids) for dtype in dtypes]
    while first.engine.has_work:
        baseline = first.step()
        for other in others:
            other.compare(baseline)
    for other in others:
        other.logits.close()
    return [other.reading() for other in others]


def score(p: F32, q: F32, target: int) -> tuple[float, float, float, bool]:
    """(KL divergence, -log q[target], -log p[target], whether the largest logits are the same token) of logits [V]."""
    weights, log_sum = exponentials(p)
    _, other = exponentials(q)
    kld = float(np.dot(weights, p - q)) - (log_sum - other)
    return kld, other - float(q[target]), log_sum - float(p[target]), bool(p.argmax() == q.argmax())


def exponentials(x: F32) -> tuple[F32, float]:
    """(probabilities, log of the sum of exp(x)). The sum is in float64."""
    largest = x.max()
    weights: F32 = np.exp(x - largest)
    total = float(weights.sum(dtype=np.float64))
    return weights / np.float32(total), float(largest) + math.log(total)


def row(parts: Assembly, dtype: str, against: str, reading: Reading) -> dict[str, Any]:
    """One line of `octavo bench quality`. kv_token: bytes of the KV cache for each token, all layers."""
    head = {"model": parts.model.name, "kv_cache_dtype": dtype, "against": against}
    return {**head, **reading.figures(), "kv_token": token_bytes(parts.model.attention, dtype)}
