"""The memory that the CPU backend will take, found without packing a weight."""

from __future__ import annotations

from typing import Any

from octavo import _native
from octavo.backends.cpu.lower import cache_layers, fused, lower
from octavo.backends.cpu.packing import check_panels, matrices, packed_bytes
from octavo.config import KV_DTYPES, CacheConfig
from octavo.ir import Model


class Outline:
    """A native plan that gets its buffers, which are address space until they are touched, but no operations."""

    RESERVING = frozenset({"buffer", "act", "attention", "logit_rows"})

    def __init__(self, plan: Any):
        self.plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name) if name in self.RESERVING else lambda *arguments: 0


def footprint(
    model: Model, cache: CacheConfig, *, max_tokens: int, max_seqs: int, max_context: int, threads: int
) -> dict[str, int]:
    """Bytes of "weights" (packed) and "scratch": what `CpuBackend.memory` says, given the same arguments.

    Raises ModelFileError.
    """
    check_panels(model)
    kv = _native.KvCache(cache_layers(model), 1, cache.block_size, KV_DTYPES.index(cache.dtype))
    plan = _native.Plan(_native.isas()[0], _native.Pool(threads), kv, max_tokens, max_seqs, max_context)
    trace = fused(model)
    weights = matrices(trace)
    lower(trace, Outline(plan), dict.fromkeys(weights))
    return {"weights": sum(map(packed_bytes, weights)), "scratch": plan.scratch_bytes}
