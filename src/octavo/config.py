"""Engine settings. Frozen: `kv.planner.resolve` turns every "auto" into a value once, in a new object."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.errors import ConfigError

log = logging.getLogger(__name__)
KV_DISK_GB = 4.0
THREADS_PER_CORE = 4  # at most: more than that only wait for each other


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Geometry of the KV cache. Bytes per token: 2 x layers x kv_heads x head_dim x element size, int8 plus scales."""

    num_blocks: int
    block_size: int = 16
    dtype: str = "bf16"
    evictions: tuple[str, ...] = ("sink_recent", "snapkv")  # that the device can do


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's settings. None or "auto" means "choose for this machine and model".

    max_num_batched_tokens: the token budget of one step; a prompt longer than the rest of it is prefilled in chunks.
    target_itl: seconds that a step may take while sequences decode and prompts are computed; "auto": prompts get as
    much of its time as the decoding sequences; None: all that the budget allows, which is most tokens a second.
    kv_cache_memory: bytes for the KV pool. num_kv_blocks overrides it.
    kv_cache_dtype: one of the backend's, such as "bf16"; "auto" is its own choice.
    kv_cache: "paged", or "contiguous" (the baseline: each sequence reserves max_model_len up front).
    preemption_mode: how a preempted sequence gets its KV back: "recompute"; "swap", from the tiers below the pool;
    "auto": whichever is faster here, as measured ("recompute" if there is no tier).
    kv_disk_cache: a folder for KV blocks that leave the pool; they are still there after a restart. kv_disk_gb: GiB
    that they may take. kv_disk_salted: also keep those of requests with a cache salt.
    kv_ram_gb: GiB of main memory for such blocks, where the pool is in the memory of a device.
    scheduler: "continuous", or "static" (the baseline: a batch runs until its last sequence ends).
    kv_eviction: what requests without one of their own keep in the KV cache, in the form of `kv.eviction.parse`.
    kv_compaction: move the blocks of a running sequence side by side, a few a step.
    preemption_victim: who gives way when the KV blocks run out; a name in `scheduler.victims`.
    tokenizer_pre: the pre-tokenizer of a GGUF file, instead of the name in the file: see `tokenizer.pre`.
    async_scheduling: on a device with a queue of its own, submit a step before the tokens of the last one are known.
    backend: a name in `backends.registry`. backend_options: settings that this backend alone looks at, such as the cpu
    backend's `threads` and `isa`. `engine_config` takes them by name, like all others.
    """

    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    target_itl: float | str | None = None
    block_size: int = 16
    num_kv_blocks: int | None = None
    kv_cache_memory: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache: str = "paged"
    scheduler: str = "continuous"
    policy: str = "priority"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    preemption_mode: str = "auto"
    kv_disk_cache: str | None = None
    kv_disk_gb: float = KV_DISK_GB
    kv_disk_salted: bool = False
    kv_ram_gb: float | None = None
    preemption_victim: str = "last"
    kv_eviction: str | None = None
    kv_compaction: bool = False
    async_scheduling: bool = True
    backend: str = "cpu"
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    tokenizer_pre: str | None = None
    speculative_config: dict[str, Any] | None = field(default=None)


CHOICES = {
    "kv_cache": ("paged", "contiguous"),
    "scheduler": ("continuous", "static"),
    "policy": ("fcfs", "priority", "deadline"),
    "preemption_mode": ("recompute", "swap", "auto"),
    "preemption_victim": ("last", "priority", "blocks", "score"),
}
FLAGS = ("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling")
MAX_SLOTS = 2**31 - 1  # slots are int32
# Integers from 1 up to these limits. Larger values would exhaust the machine with tables.
AT_MOST = {
    "max_model_len": MAX_SLOTS,
    "max_num_seqs": 1 << 16,
    "max_num_batched_tokens": 1 << 20,
    "block_size": 256,
    "num_kv_blocks": MAX_SLOTS,
    "kv_cache_memory": 1 << 62,
}


def check(config: EngineConfig) -> EngineConfig:
    """Returns the same object. Raises ConfigError, with the allowed values, for the first setting out of range."""
    for name, most in AT_MOST.items():
        check_integer(name, getattr(config, name), most)
    target = config.target_itl
    if target not in (None, "auto") and not (isinstance(target, int | float) and target > 0):
        raise ConfigError(f"target_itl must be a number of seconds above 0, 'auto' or None; got {target!r}")
    for name in FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be True or False; got {getattr(config, name)!r:.60}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise ConfigError(f"seed must be an integer; got {config.seed!r:.60}")
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {getattr(config, name)!r}")
    _check_tiers(config)
    if config.block_size > 256 or config.block_size & (config.block_size - 1):
        raise ConfigError(f"block_size must be a power of two up to 256; got {config.block_size}")
    return config


def _check_tiers(config: EngineConfig) -> None:
    for name in ("kv_disk_gb", "kv_ram_gb"):
        size = getattr(config, name)
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1 << 30):
            raise ConfigError(f"{name} must be a number of GiB above 0; got {size!r}")
    for name, default in (("kv_disk_gb", KV_DISK_GB), ("kv_disk_salted", False)):
        if config.kv_disk_cache is None and getattr(config, name) != default:
            raise ConfigError(f"{name} needs kv_disk_cache: the folder")
    if config.kv_disk_cache is None and config.kv_ram_gb is None:
        if config.preemption_mode == "swap":
            raise ConfigError("preemption_mode 'swap' needs a place for the blocks: set kv_disk_cache to a folder")
        return
    if config.kv_disk_cache is not None and not (isinstance(config.kv_disk_cache, str) and config.kv_disk_cache):
        raise ConfigError(f"kv_disk_cache must be the path of a folder; got {config.kv_disk_cache!r}")
    given = "kv_disk_cache" if config.kv_disk_cache is not None else "kv_ram_gb"
    if config.kv_cache != "paged":
        raise ConfigError(f"{given} needs kv_cache='paged'; got {config.kv_cache!r}")
    if config.kv_compaction:  # a block that was just moved could be stored before its content arrives
        raise ConfigError(f"{given} and kv_compaction do not go together: leave out one of them")
    if not config.enable_prefix_caching:
        raise ConfigError(f"{given} needs enable_prefix_caching: blocks are found by their prefix")


def check_integer(name: str, value: object, most: int) -> None:
    """Raises ConfigError for what is neither None nor an integer from 1 to `most`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
        raise ConfigError(f"{name} must be an integer from 1 to {most}; got {value!r}")


def usable_threads(wanted: int | None) -> int:
    """`wanted`, or the default for None; with a warning, at most THREADS_PER_CORE for each core to be had."""
    cores = default_threads()
    most = THREADS_PER_CORE * cores
    if wanted is not None and wanted > most:
        share = f"{THREADS_PER_CORE} for each core that this process may use"
        log.warning("threads is %d: %d are used, %s", wanted, most, share)
    return cores if wanted is None else min(wanted, most)


def default_threads() -> int:
    """Physical cores this process may use. A core's second hardware thread does not speed up matrix arithmetic."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core(cpu) for cpu in allowed}
    return max(1, min(len(cores), _cgroup_cpus()))


def _core(cpu: int) -> str:
    """A name for the physical core of a logical CPU; the CPU's number if the system does not report it."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _cgroup_cpus() -> int:
    """The container's CPU quota, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return os.cpu_count() or 1
