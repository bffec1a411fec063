"""The CPU as a device: what it can do and would take. The compiled module is loaded only to answer that."""

from __future__ import annotations

from typing import Any

from octavo.backends import host
from octavo.backends.base import Backend, Device, Options, Progress
from octavo.config import CacheConfig, EngineConfig, check_integer, usable_threads
from octavo.errors import ConfigError
from octavo.ir import Model

MAX_THREADS = 1024  # more would exhaust a machine before it computes anything
ISAS = ("auto", "amx", "avx512", "avx2", "i8mm", "neon", "portable")
# tests/e2e/test_kv_disk.py has the bytes that belong to it, on every instruction set.
KV_VERSION = "cpu-1"
OPTIONS: dict[str, Any] = {
    "threads": None,  # None: one for each physical core that the process may use
    "isa": "auto",  # "auto": the best instruction set that the processor has
}


def check_options(options: Options) -> None:
    check_integer("threads", options.get("threads"), MAX_THREADS)
    if (isa := options.get("isa", "auto")) not in ISAS:
        raise ConfigError(f"isa must be one of {', '.join(ISAS)}; got {isa!r}")


def resolve_options(options: Options) -> dict[str, Any]:
    """`isa` stays "auto" for `CpuBackend` to resolve, which knows the processor."""
    made = OPTIONS | dict(options)
    return made | {"threads": usable_threads(made["threads"])}


def limits(config: EngineConfig) -> dict[str, Any]:
    """The arguments of `CpuBackend` and `footprint` that follow from a resolved configuration."""
    assert config.max_model_len is not None
    blocks = -(-config.max_model_len // config.block_size)
    return {
        "max_tokens": config.max_num_batched_tokens,
        "max_seqs": config.max_num_seqs,
        "max_context": blocks * config.block_size,  # a sequence that evicts uses all slots of its table
        **config.backend_options,
    }


def footprint(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    from octavo.backends.cpu.footprint import footprint

    return footprint(model, cache, **limits(config))


def make(
    model: Model, config: EngineConfig, cache: CacheConfig, progress: Progress | None, beside: Backend | None
) -> Backend:
    from octavo.backends.cpu.backend import CpuBackend

    other = beside if isinstance(beside, CpuBackend) else None
    return CpuBackend(model, cache, progress=progress, beside=other, **limits(config))


DEVICE = Device(
    make=make,
    footprint=footprint,
    available_memory=lambda options: host.available_memory(),
    auto_pool=host.auto_pool,
    facts=host.facts,
    kv_dtypes=("bf16", "f32", "int8", "k8v4"),
    trees=True,
    offload="disk",
    kv_version=KV_VERSION,
    evictions=("sink_recent", "snapkv"),
    options=OPTIONS,
    check_options=check_options,
    resolve_options=resolve_options,
)
