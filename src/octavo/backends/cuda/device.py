"""An NVIDIA GPU as a device: what it can do and would take. torch and triton are imported only to answer that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from octavo.backends import host
from octavo.backends.base import Backend, Device, Facts, Options, Progress
from octavo.backends.plan.key_offsets import key_offsets
from octavo.config import CacheConfig, EngineConfig
from octavo.errors import CapacityError, ConfigError
from octavo.ir import Model

OPTIONS: dict[str, Any] = {
    "gpu_memory_utilization": None,  # the share of the device's free memory that the engine may take; None: SHARE
    "cuda_graphs": None,  # "off": launch every kernel from Python; None: "on"
}
SHARE = 0.9
RESERVE = 1 << 30  # bytes for buffers, compiled kernels and torch itself


def interpreted() -> bool:
    """Whether Triton runs kernels in numpy, on the CPU: slow, for tests without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def installed() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "triton"))


def check_device() -> None:
    """Raises ConfigError, with the first thing that is missing to run on a GPU."""
    if not installed():
        raise ConfigError("backend cuda needs torch and triton: pip install 'octavo[cuda]'")
    if interpreted():
        return
    if not host.has_gpu():
        raise ConfigError("backend cuda needs an NVIDIA GPU and its driver: there is no /dev/nvidia0 here")
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        raise ConfigError(f"backend cuda: torch {torch.__version__} (built for {built}) finds no usable GPU or driver")


def check_options(options: Options) -> None:
    if (graphs := options.get("cuda_graphs")) not in (None, "on", "off"):
        raise ConfigError(f"cuda_graphs must be on or off; got {graphs!r}")
    if (share := options.get("gpu_memory_utilization")) is None:
        return
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"gpu_memory_utilization must be above 0 and at most 1; got {share!r}")


def resolve_options(options: Options) -> dict[str, Any]:
    return OPTIONS | dict(options)


def available_memory(options: Options) -> int:
    check_device()
    if interpreted():
        return host.available_memory()
    import torch

    free, _ = torch.cuda.mem_get_info()
    return share(free, options)


def share(free: int, options: Options) -> int:
    """What the engine may take of `free` bytes."""
    return int(free * (options.get("gpu_memory_utilization") or SHARE))


def facts() -> Facts:
    if interpreted():
        return host.facts()
    import torch

    from octavo.backends.cuda.lost import watched

    with watched():
        free, total = torch.cuda.mem_get_info()
    return Facts(torch.cuda.get_device_name(), total, total - free)


def auto_pool(available: int, weights: int, context: int) -> int:
    """All that weights and buffers leave: nothing else uses a GPU's memory. Interpreted, what a laptop can spare."""
    return host.auto_pool(available, weights, context) if interpreted() else max(0, available - weights - RESERVE)


def limits(config: EngineConfig) -> dict[str, Any]:
    """The arguments of `CudaBackend` that follow from a resolved configuration."""
    return {
        "max_tokens": config.max_num_batched_tokens,
        "max_seqs": config.max_num_seqs,
        "max_context": config.max_model_len,
    }


def check_offsets(model: Model, cache: CacheConfig) -> None:
    """Raises ConfigError for int8 keys of a model whose k projections have biases: without the key offsets that the CPU
    backend has, they would cost much quality."""
    if cache.dtype == "int8" and key_offsets(model):
        raise ConfigError(
            f"kv_cache_dtype 'int8' on backend cuda cannot store the keys of {model.name}, whose k projections have "
            "biases: use bf16"
        )


def footprint(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    check_offsets(model, cache)
    from octavo.backends.cuda.footprint import footprint

    return footprint(model, cache, **limits(config))


def make(
    model: Model, config: EngineConfig, cache: CacheConfig, progress: Progress | None, beside: Backend | None
) -> Backend:
    check_device()
    check_offsets(model, cache)
    import torch

    from octavo.backends.cuda.backend import CudaBackend

    needed = footprint(model, config, cache)
    check_room(needed, available_memory({"gpu_memory_utilization": 1.0}))
    try:
        device = "cpu" if interpreted() else "cuda"
        graphs = config.backend_options.get("cuda_graphs") != "off"
        return CudaBackend(model, cache, device=device, graphs=graphs, progress=progress, **limits(config))
    except torch.OutOfMemoryError as error:
        raise CapacityError(f"{room(needed)}, and its memory ran out on the way: {ADVICE}") from error


def check_room(needed: Mapping[str, int], free: int) -> None:
    """Raises CapacityError if the GPU has less memory free than the backend will take."""
    if (missing := sum(needed.values()) - free) > 0:
        raise CapacityError(
            f"{room(needed)}, {missing / 2**30:.1f} GiB more than is free ({free / 2**30:.1f}): {ADVICE}"
        )


ADVICE = (
    "lower gpu_memory_utilization (or num_kv_blocks, kv_cache_memory, where set), max_num_batched_tokens or "
    "max_model_len, or choose a smaller model"
)


def room(needed: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needed.items())
    return f"the GPU needs {sum(needed.values()) / 2**30:.1f} GiB of memory ({parts})"


DEVICE = Device(
    make=make,
    footprint=footprint,
    available_memory=available_memory,
    auto_pool=auto_pool,
    facts=facts,
    kv_dtypes=("bf16", "f32", "int8"),
    trees=True,
    share=share,
    options=OPTIONS,
    check_options=check_options,
    resolve_options=resolve_options,
)
