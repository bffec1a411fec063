"""Memory arithmetic: what a token, a block, a pool takes; what fits; and every "auto" setting that follows from it.
What a device has and prefers is asked of it.

Bytes a token = layers x kv_heads x the bytes of one head's key and value (`HEAD_BYTES`). Llama-2-70B at 16 bits: 80 x 8
x 2 x 128 x 2 = 320 KiB a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from octavo.config import MAX_SLOTS, CacheConfig, EngineConfig, check
from octavo.errors import CapacityError, ConfigError
from octavo.kv import eviction

GROUP = 32  # values of 4 bits that share a scale and a minimum, both f16


def _f32(dim: int) -> int:
    return 4 * dim


def _bf16(dim: int) -> int:
    return 2 * dim


def _int8(dim: int) -> int:
    return dim + 4  # a float32 scale


def _int4(dim: int) -> int:
    return dim // 2 + 4 * (dim // GROUP)


# Bytes of one head of one token, by the type of the cache: of a key and of a value, from their dimensions.
HEAD_BYTES: dict[str, tuple[Callable[[int], int], Callable[[int], int]]] = {
    "f32": (_f32, _f32),
    "bf16": (_bf16, _bf16),
    "int8": (_int8, _int8),
    "k8v4": (_int8, _int4),
}


class Layer(Protocol):
    """One attention layer's cache geometry; `ir.Attention` is one."""

    @property
    def kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...  # of K

    @property
    def value_dim(self) -> int: ...  # of V


class Device(Protocol):
    """What planning asks of a device; `backends.base.Device` is one, and says what each of these is."""

    @property
    def kv_dtypes(self) -> tuple[str, ...]: ...

    @property
    def evictions(self) -> tuple[str, ...]: ...

    @property
    def step_sizes(self) -> tuple[int, ...]: ...

    @property
    def available_memory(self) -> Callable[[Mapping[str, Any]], int]: ...

    @property
    def auto_pool(self) -> Callable[[int, int, int], int]: ...


def block_bytes(layers: Sequence[Layer], block_size: int, dtype: str) -> int:
    """Bytes of one block in all layers: K [kv_heads, block_size, head_dim], V [kv_heads, block_size, value_dim], and
    what quantised types need to decode them."""
    key, value = HEAD_BYTES[dtype]
    return sum(layer.kv_heads * block_size * (key(layer.head_dim) + value(layer.value_dim)) for layer in layers)


def token_bytes(layers: Sequence[Layer], dtype: str) -> int:
    return block_bytes(layers, 1, dtype)


def blocks_for(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


@dataclass(frozen=True, slots=True)
class Format:
    """What the same pool would hold with another type of keys and values."""

    kv_cache_dtype: str
    kv_token: int  # bytes
    max_sequences: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All values are bytes, except the counts at the end."""

    weights: int
    scratch: int
    kv_token: int
    kv_sequence: int  # one sequence of `length` tokens, in whole blocks
    kv_pool: int
    total: int
    available: int
    num_blocks: int
    length: int  # tokens
    max_sequences: int  # sequences of `length` tokens that the pool holds without sharing
    formats: tuple[Format, ...]  # the largest first

    @property
    def fits(self) -> bool:
        return self.total <= self.available


def plan(
    layers: Sequence[Layer],
    cache: CacheConfig,
    footprint: Mapping[str, int],
    length: int,
    available: int,
    dtypes: Sequence[str] = (),
) -> MemoryPlan:
    """What a model takes with this cache. length: tokens of a typical sequence.

    footprint: bytes of "weights", "kv" and "scratch". available: bytes of memory to judge by. dtypes: other types of
    the cache, to compare with.
    """
    block = block_bytes(layers, cache.block_size, cache.dtype)
    blocks = blocks_for(length, cache.block_size)

    def compared(dtype: str) -> Format:
        sequence = blocks * block_bytes(layers, cache.block_size, dtype)
        return Format(dtype, token_bytes(layers, dtype), footprint["kv"] // sequence)

    possible = [compared(dtype) for dtype in dtypes if misfit(layers, dtype) is None]
    return MemoryPlan(
        weights=footprint["weights"],
        scratch=footprint["scratch"],
        kv_token=token_bytes(layers, cache.dtype),
        kv_sequence=blocks * block,
        kv_pool=footprint["kv"],
        total=sum(footprint.values()),
        available=available,
        num_blocks=cache.num_blocks,
        length=length,
        max_sequences=cache.num_blocks // blocks,
        formats=tuple(sorted(possible, key=lambda each: -each.kv_token)),
    )


def misfit(layers: Sequence[Layer], dtype: str) -> int | None:
    """A dimension of heads that this type of cache cannot store."""
    grouped = HEAD_BYTES[dtype][1] is _int4
    return next((layer.value_dim for layer in layers if grouped and layer.value_dim % GROUP), None)


def check_heads(layers: Sequence[Layer], dtype: str) -> None:
    """Raises ConfigError for heads that this type of cache cannot store."""
    if (odd := misfit(layers, dtype)) is not None:
        raise ConfigError(
            f"kv_cache_dtype {dtype} needs heads of a multiple of {GROUP} dimensions, but the model's have {odd}: "
            "use int8"
        )


def resolve(
    config: EngineConfig,
    device: Device,
    layers: Sequence[Layer],
    max_context: int,
    weights: int,
    available: int | None = None,
) -> tuple[EngineConfig, CacheConfig]:
    """Both configurations with every "auto" (but those in `backend_options`) turned into a value.

    max_context: tokens the model was made for. weights: bytes they take. available: bytes of memory; None asks the
    device. Raises ConfigError for a setting out of range, CapacityError for one that cannot be met.
    """
    check(config)
    if config.max_model_len is not None and config.max_model_len > max_context:
        raise CapacityError(f"max_model_len is {config.max_model_len}, but the model's context is {max_context} tokens")
    dtype = _dtype(config, device, layers)
    _check_eviction(config, device)
    wanted = config.max_model_len or max_context
    if available is None:
        available = device.available_memory(config.backend_options)
    block = block_bytes(layers, config.block_size, dtype)
    num_blocks = _pool_blocks(config, block, wanted, partial(device.auto_pool, available, weights))
    length = config.max_model_len or min(max_context, num_blocks * config.block_size)
    resolved = dataclasses.replace(
        config,
        max_model_len=length,
        max_num_batched_tokens=_budget(config, length, device.step_sizes),
        num_kv_blocks=num_blocks,
        kv_cache_dtype=dtype,
    )
    return resolved, CacheConfig(num_blocks, config.block_size, dtype, device.evictions)


def _budget(config: EngineConfig, length: int, sizes: tuple[int, ...]) -> int:
    """Tokens of a step: the largest of the device's sizes within what is set. Without chunks a step must hold the
    longest prompt, whatever is set."""
    budget = config.max_num_batched_tokens
    if not config.enable_chunked_prefill and length > budget:
        return next((size for size in sizes if size >= length), length)
    return max((size for size in sizes if size <= budget), default=budget)


def _dtype(config: EngineConfig, device: Device, layers: Sequence[Layer]) -> str:
    if config.kv_cache_dtype == "auto":
        return device.kv_dtypes[0]
    if config.kv_cache_dtype not in device.kv_dtypes:
        allowed = ", ".join(("auto", *device.kv_dtypes))
        raise ConfigError(f"kv_cache_dtype must be one of {allowed}; got {config.kv_cache_dtype!r}")
    check_heads(layers, config.kv_cache_dtype)
    return config.kv_cache_dtype


def _check_eviction(config: EngineConfig, device: Device) -> None:
    try:
        policy = eviction.parse(config.kv_eviction)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"kv_eviction {error}") from None
    if policy is not None and (reason := eviction.refusal(policy, config, device.evictions)):
        raise ConfigError(reason)


def _pool_blocks(config: EngineConfig, block: int, length: int, auto_pool: Callable[[int], int]) -> int:
    """Blocks of the pool: as set, as many as the set memory holds, or what the device can well spare.

    auto_pool: from the bytes of one context of `length` tokens.
    """
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
        memory, name = auto_pool(sequence * block), f"what backend {config.backend} can spare for the KV cache"
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
