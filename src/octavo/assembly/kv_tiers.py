"""The tiers below the KV pool, from the settings, and what the blocks on a disk depend on.

A block may be used again by another process only if that process would compute the same bytes. They follow from the
model's weights and configuration, the type and the size of the blocks, and the backend's layout and arithmetic. They do
not depend on threads or instruction sets.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from octavo.backends.base import Backend, Device, Offloads
from octavo.config import CacheConfig, EngineConfig
from octavo.errors import ConfigError
from octavo.kv.slab import FORMAT
from octavo.kv.store import Tier
from octavo.kv.tier_disk import open_tier
from octavo.kv.tier_ram import RamTier
from octavo.models.registry import read_config
from octavo.weights.artifact import Artifact
from octavo.weights.artifact import fingerprint as source_of
from octavo.weights.checkpoint import Checkpoint


def check(config: EngineConfig, device: Device) -> None:
    """Raises ConfigError for tiers that this backend cannot have."""
    if config.kv_disk_cache is not None and not device.offload:
        raise ConfigError(f"backend {config.backend!r} keeps its KV blocks: it cannot have a kv_disk_cache")
    if config.kv_ram_gb is not None and device.offload == "disk":
        raise ConfigError("kv_ram_gb has no use here: the KV pool is in main memory already; raise kv_cache_memory")
    if config.kv_ram_gb is not None and not device.offload:
        raise ConfigError(f"backend {config.backend!r} keeps its KV blocks: it cannot have kv_ram_gb")


def identity(checkpoint: Checkpoint, config: EngineConfig, cache: CacheConfig) -> bytes:
    """What a user chose: the model, the backend, and how it stores keys and values. Reads all weights.

    Empty if there is no tier on a disk."""
    if config.kv_disk_cache is None:
        return b""
    source = checkpoint.source if isinstance(checkpoint, Artifact) else source_of(checkpoint)
    _, settings = read_config(checkpoint.metadata)
    parts = [source["sha256"], repr(settings), config.backend, cache.dtype, cache.block_size]
    return sha256(json.dumps(parts).encode()).digest()


def fingerprint(chosen: bytes, kv_version: str) -> bytes:
    """`identity`, and what changes with versions of Octavo."""
    return sha256(chosen + json.dumps([FORMAT, kv_version]).encode()).digest()


def create(
    config: EngineConfig, cache: CacheConfig, backend: Backend, chosen: bytes, kv_version: str, name: str
) -> list[Tier]:
    """The tiers, the fastest first. chosen: `identity`. kv_version: the device's. name: of the model."""
    tiers: list[Tier] = []
    if config.kv_disk_cache is None and config.kv_ram_gb is None:
        return tiers
    assert isinstance(backend, Offloads), "check has seen to it"
    if config.kv_ram_gb is not None:
        tiers.append(RamTier(max(1, int(config.kv_ram_gb * 2**30) // backend.block_bytes)))
    if config.kv_disk_cache is not None:
        disk = open_tier(
            Path(config.kv_disk_cache).expanduser(),
            f"kv-{chosen.hex()[:16]}.slab",
            int(config.kv_disk_gb * 2**30),
            backend.block_bytes,
            fingerprint(chosen, kv_version),
            f"{name}, {cache.dtype}, blocks of {cache.block_size} tokens",
            config.kv_disk_salted,
        )
        tiers += [disk] if disk is not None else []
    return tiers
