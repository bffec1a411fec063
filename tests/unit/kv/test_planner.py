from __future__ import annotations

from typing import Any

import pytest

from octavo.backends import host
from octavo.backends.base import Device
from octavo.backends.cpu.device import DEVICE as CPU
from octavo.config import CacheConfig, EngineConfig
from octavo.errors import CapacityError, ConfigError
from octavo.ir import Attention
from octavo.kv import planner
from octavo.kv.planner import block_bytes, plan, token_bytes

LLAMA_70B = [Attention(heads=64, kv_heads=8, head_dim=128, scale=1.0)] * 80
QWEN_1_5B = [Attention(heads=12, kv_heads=2, head_dim=128, scale=1.0)] * 28
GIB = 1 << 30


def resolve(config: EngineConfig, *model: Any, device: Device = CPU) -> tuple[EngineConfig, CacheConfig]:
    """model: layers, longest context, bytes of weights and of memory."""
    return planner.resolve(config, device, *model)


def test_published_figures() -> None:
    assert token_bytes(LLAMA_70B, "bf16") == 320 << 10
    assert 32768 * token_bytes(LLAMA_70B, "bf16") == 10 * GIB
    assert token_bytes(QWEN_1_5B, "bf16") == 28 << 10
    assert token_bytes(QWEN_1_5B, "f32") == 56 << 10


def test_int8_stores_a_scale_for_each_token_and_head() -> None:
    assert block_bytes(QWEN_1_5B, 16, "int8") == 28 * 2 * (2 * 16 * 128 + 2 * 16 * 4)


def test_k8v4_has_a_scale_and_a_minimum_for_each_32_values() -> None:
    """The bytes of a head of 64, key and value: 256 in bf16, 136 in int8, 108 in k8v4."""
    head = [Attention(heads=1, kv_heads=1, head_dim=64, scale=1.0)]
    assert [token_bytes(head, dtype) for dtype in ("bf16", "int8", "k8v4")] == [256, 136, 108]
    assert token_bytes(QWEN_1_5B, "k8v4") == 28 * 2 * (128 + 4 + 64 + 4 * 4)


def test_k8v4_needs_whole_groups() -> None:
    layers = [Attention(4, 2, head_dim=80, scale=1.0)]
    config = EngineConfig(kv_cache_dtype="k8v4")
    with pytest.raises(ConfigError, match="heads of a multiple of 32 dimensions, but the model's have 80: use int8"):
        resolve(config, layers, 2048, GIB, 8 * GIB)


def test_layers_may_differ() -> None:
    mixed = [Attention(4, 1, 256, 1.0), Attention(4, 2, 64, 1.0)]
    assert block_bytes(mixed, 16, "bf16") == 2 * 16 * 2 * (256 + 128)


def test_keys_and_values_may_differ() -> None:
    layers = [Attention(4, 2, head_dim=192, scale=1.0, value_dim=128)]
    assert token_bytes(layers, "bf16") == 2 * 2 * (192 + 128)
    assert token_bytes(layers, "int8") == 2 * (192 + 4 + 128 + 4)


def test_plan_adds_up() -> None:
    pool = 1000 * 16 * (28 << 10)
    footprint = {"weights": GIB, "kv": pool, "scratch": 1 << 20}
    memory = plan(QWEN_1_5B, CacheConfig(1000), footprint, length=1000, available=2 * GIB)
    assert memory.kv_token == 28 << 10
    assert memory.kv_sequence == 63 * 16 * (28 << 10)
    assert memory.kv_pool == pool
    assert memory.total == GIB + (1 << 20) + memory.kv_pool and memory.fits
    assert memory.max_sequences == 1000 // 63
    assert not plan(QWEN_1_5B, CacheConfig(1000), footprint, 1000, available=GIB).fits


def test_resolve_fills_every_auto() -> None:
    config, cache = resolve(EngineConfig(), QWEN_1_5B, 32768, GIB, 16 * GIB)
    assert cache.dtype == config.kv_cache_dtype == "bf16"
    assert cache.num_blocks == config.num_kv_blocks == GIB // block_bytes(QWEN_1_5B, 16, "bf16")
    assert config.max_model_len == 32768


def test_auto_context_shrinks_to_the_pool_but_a_set_one_does_not() -> None:
    block = block_bytes(QWEN_1_5B, 16, "bf16")
    config, cache = resolve(EngineConfig(kv_cache_memory=10 * block), QWEN_1_5B, 32768, GIB, 16 * GIB)
    assert (cache.num_blocks, config.max_model_len) == (10, 160)
    with pytest.raises(CapacityError, match="kv_cache_memory"):
        resolve(EngineConfig(kv_cache_memory=10 * block, max_model_len=161), QWEN_1_5B, 32768, GIB, 16 * GIB)
    config, _ = resolve(EngineConfig(kv_cache_memory=10 * block, max_model_len=160), QWEN_1_5B, 32768, GIB, 16 * GIB)
    assert config.max_model_len == 160


def test_the_pool_is_no_larger_than_all_sequences_can_use() -> None:
    _, cache = resolve(EngineConfig(max_model_len=100, max_num_seqs=3), QWEN_1_5B, 32768, GIB, 16 * GIB)
    assert cache.num_blocks == 3 * 7


def test_without_chunks_a_step_holds_the_longest_prompt() -> None:
    chunked = EngineConfig(max_model_len=1000, enable_chunked_prefill=True)
    whole = EngineConfig(max_model_len=1000, enable_chunked_prefill=False)
    budgets = [resolve(config, QWEN_1_5B, 2048, GIB, 16 * GIB)[0].max_num_batched_tokens for config in (chunked, whole)]
    assert budgets == [512, 1000]


def test_a_context_longer_than_the_model_s_is_refused() -> None:
    with pytest.raises(CapacityError, match="2048"):
        resolve(EngineConfig(max_model_len=4096), QWEN_1_5B, 2048, GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("max_model_len", -1),
        ("kv_cache_memory", 1.5),
        ("max_num_seqs", 10**11),
        ("max_num_batched_tokens", 10**11),
        ("num_kv_blocks", 2**31),
        ("block_size", 12),
        ("kv_cache_dtype", "fp8"),
        ("kv_cache", "ring"),
        ("scheduler", "none"),
        ("policy", "lottery"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        resolve(EngineConfig(**{name: value}), QWEN_1_5B, 2048, GIB, 16 * GIB)  # type: ignore[arg-type]


def test_slots_fit_their_integers() -> None:
    """A slot is an int32, so the pool is limited however much memory there is."""
    roomy = EngineConfig(kv_cache_memory=1 << 60, max_num_seqs=1 << 16)
    _, cache = resolve(roomy, QWEN_1_5B, 131_072, GIB, 1 << 60)
    assert 0 <= 2**31 - cache.num_blocks * cache.block_size <= 2 * cache.block_size
    with pytest.raises(CapacityError, match=f"{2**27 - 1} blocks of block_size 16"):
        resolve(EngineConfig(num_kv_blocks=2**27), QWEN_1_5B, 2048, GIB, 16 * GIB)


def test_without_a_set_length_one_block_is_asked_for() -> None:
    with pytest.raises(CapacityError, match=r"is 1\.0 KiB, but one block of 16 tokens takes 448\.0 KiB"):
        resolve(EngineConfig(kv_cache_memory=1024), QWEN_1_5B, 32768, GIB, 16 * GIB)


def test_available_memory_is_plausible() -> None:
    assert 1 << 24 < host.available_memory() < 1 << 50
