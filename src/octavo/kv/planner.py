"""Memory arithmetic: what a token, a block, a pool takes; what fits; and every "auto" setting that follows from it.

Bytes a token = 2 (K and V) x layers x kv_heads x head_dim x element size; int8 adds a float32 scale for each (token,
head) of each. Llama-2-70B at 16 bits: 2 x 80 x 8 x 128 x 2 = 320 KiB a token.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from octavo.config import MAX_SLOTS, CacheConfig, EngineConfig, check, default_threads
from octavo.errors import CapacityError

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "int8": 1}
SCALE_BYTES = {"f32": 0, "bf16": 0, "int8": 4}
DEFAULT_POOL = 1 << 30  # an "auto" pool takes no more, so that a laptop stays usable, unless one full context needs it


class Layer(Protocol):
    """One attention layer's cache geometry; `ir.Attention` is one."""

    @property
    def kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...  # of K

    @property
    def value_dim(self) -> int: ...  # of V


def block_bytes(layers: Sequence[Layer], block_size: int, dtype: str) -> int:
    """Bytes of one block in all layers: K [kv_heads, block_size, head_dim], V [kv_heads, block_size, value_dim], and
    int8's scales of both [kv_heads, block_size]."""
    element, scale = ELEMENT_BYTES[dtype], SCALE_BYTES[dtype]
    per_head = [(layer.head_dim + layer.value_dim) * element + 2 * scale for layer in layers]
    return sum(layer.kv_heads * block_size * size for layer, size in zip(layers, per_head, strict=True))


def token_bytes(layers: Sequence[Layer], dtype: str) -> int:
    return block_bytes(layers, 1, dtype)


def blocks_for(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes, but for the counts at the end."""

    weights: int
    scratch: int
    kv_token: int
    kv_sequence: int  # one sequence of `length` tokens, in whole blocks
    kv_pool: int
    total: int
    available: int
    num_blocks: int
    length: int  # tokens
    max_sequences: int  # sequences of `length` tokens that the pool holds at once, sharing nothing

    @property
    def fits(self) -> bool:
        return self.total <= self.available


def plan(
    layers: Sequence[Layer], cache: CacheConfig, weights: int, scratch: int, length: int, available: int | None = None
) -> MemoryPlan:
    """What a model takes with this cache. weights, scratch: bytes. length: tokens of a typical sequence.

    available: bytes of memory to judge by; None asks the system.
    """
    block = block_bytes(layers, cache.block_size, cache.dtype)
    blocks = blocks_for(length, cache.block_size)
    return MemoryPlan(
        weights=weights,
        scratch=scratch,
        kv_token=token_bytes(layers, cache.dtype),
        kv_sequence=blocks * block,
        kv_pool=cache.num_blocks * block,
        total=weights + scratch + cache.num_blocks * block,
        available=available_memory() if available is None else available,
        num_blocks=cache.num_blocks,
        length=length,
        max_sequences=cache.num_blocks // blocks,
    )


def resolve(
    config: EngineConfig, layers: Sequence[Layer], max_context: int, weights: int, available: int | None = None
) -> tuple[EngineConfig, CacheConfig]:
    """Both configurations with every "auto" (but `isa`, which is the backend's) turned into a value.

    max_context: tokens the model was made for. weights: bytes they take. available: bytes of memory; None asks the
    system. Raises ConfigError for a setting out of range, CapacityError for one that cannot be met.
    """
    check(config)
    if config.max_model_len is not None and config.max_model_len > max_context:
        raise CapacityError(f"max_model_len is {config.max_model_len}, but the model's context is {max_context} tokens")
    dtype = _dtype(config)
    wanted = config.max_model_len or max_context
    num_blocks = _pool_blocks(config, block_bytes(layers, config.block_size, dtype), wanted, weights, available)
    length = config.max_model_len or min(max_context, num_blocks * config.block_size)
    resolved = dataclasses.replace(
        config,
        max_model_len=length,
        max_num_batched_tokens=_budget(config, length),
        num_kv_blocks=num_blocks,
        kv_cache_dtype=dtype,
        threads=config.threads or default_threads(),
    )
    return resolved, CacheConfig(num_blocks, config.block_size, dtype)


def _budget(config: EngineConfig, length: int) -> int:
    """Without chunks a step must hold the longest prompt."""
    budget = config.max_num_batched_tokens
    return budget if config.enable_chunked_prefill else max(budget, length)


def _dtype(config: EngineConfig) -> str:
    if config.kv_cache_dtype != "auto":
        return config.kv_cache_dtype
    return "f32" if config.backend == "reference" else "bf16"


def _pool_blocks(config: EngineConfig, block: int, length: int, weights: int, available: int | None) -> int:
    """Blocks of the pool: as set, as many as the set memory holds, or what the machine can well spare."""
    most = MAX_SLOTS // config.block_size
    if config.num_kv_blocks is not None:
        if config.num_kv_blocks > most:
            raise CapacityError(
                f"num_kv_blocks is {config.num_kv_blocks}, "
                f"but there can be {most} blocks of block_size {config.block_size}"
            )
        return config.num_kv_blocks
    sequence = blocks_for(length, config.block_size)
    if config.kv_cache_memory is not None:
        memory, name = config.kv_cache_memory, "kv_cache_memory"
    else:
        spare = max(0, (available_memory() if available is None else available) - weights) // 2
        memory, name = min(spare, max(DEFAULT_POOL, sequence * block)), "half of the memory that is left"
    blocks = min(memory // block, config.max_num_seqs * sequence, most)
    set_length = config.max_model_len is not None
    needed = sequence if set_length else 1
    if blocks < needed:
        what = (
            f"a sequence of max_model_len ({length} tokens)"
            if set_length
            else f"one block of {config.block_size} tokens"
        )
        raise CapacityError(
            f"{name} is {_amount(memory)}, but {what} takes {_amount(needed * block)} of KV cache: "
            f"raise kv_cache_memory, lower {'max_model_len' if set_length else 'block_size'}, "
            f"or choose a smaller kv_cache_dtype"
        )
    return blocks


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def available_memory() -> int:
    """Bytes this process may still take: the system's MemAvailable, or what its container has left if that is less."""
    return min(_system_available(), _cgroup_available())


def _system_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all of the machine's memory is the best that can be said
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_available() -> int:
    """Cgroup v2's limit less what is in use; page cache counts as free."""
    group = Path("/sys/fs/cgroup")
    try:
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int((group / "memory.max").read_text()) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 1 << 62
