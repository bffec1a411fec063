"""Engine settings. Frozen: `resolve` turns every "auto" into a value once, in a new object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KV_DTYPES = ("f32", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Geometry of the KV cache. Bytes a token = 2 x layers x kv_heads x head_dim x element size (+ scales for int8)."""

    num_blocks: int
    block_size: int = 16
    dtype: str = "bf16"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What a user may set; None or "auto" means "choose for this machine and model".

    max_num_batched_tokens: the token budget of one step; a prompt longer than what is left of it is prefilled in chunks.
    kv_cache_memory: bytes for the KV pool. num_kv_blocks overrides it.
    kv_cache: "paged", or "contiguous" (the baseline: each sequence reserves max_model_len up front).
    scheduler: "continuous", or "static" (the baseline: a batch runs until its last sequence ends).
    """

    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    block_size: int = 16
    num_kv_blocks: int | None = None
    kv_cache_memory: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache: str = "paged"
    scheduler: str = "continuous"
    policy: str = "priority"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    preemption_mode: str = "recompute"
    backend: str = "cpu"
    isa: str = "auto"
    threads: int | None = None
    seed: int = 0
    speculative_config: dict[str, Any] | None = field(default=None)
