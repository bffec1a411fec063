"""Computes the memory of a CPU backend without packing a weight."""

from __future__ import annotations

from typing import Any

from octavo import _native
from octavo.backends.cpu.backend import choose_isa
from octavo.backends.cpu.lower import KV_DTYPES, cache_layers, fused, lower, offsets
from octavo.backends.cpu.packing import check_panels, matrices, packed_bytes
from octavo.config import CacheConfig
from octavo.ir import Model
from octavo.kv.planner import block_bytes


class Outline:
    """A native plan with buffers but without operations. Untouched buffers are only address space."""

    RESERVING = frozenset({"buffer", "act", "attention", "logit_rows", "constant", "middle_angles"})

    def __init__(self, plan: Any):
        self.plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name) if name in self.RESERVING else lambda *arguments: 0


def footprint(
    model: Model, cache: CacheConfig, *, max_tokens: int, max_seqs: int, max_context: int, threads: int, isa: str
) -> dict[str, int]:
    """Bytes of "weights" (packed), "kv" and "scratch": what `CpuBackend.memory` says, given the same arguments.

    Raises ConfigError for an instruction set that is not available, and ModelFileError.
    """
    check_panels(model)
    kv = _native.KvCache(cache_layers(model), 1, cache.block_size, KV_DTYPES[cache.dtype])
    plan = _native.Plan(choose_isa(isa), _native.Pool(threads), kv, max_tokens, max_seqs, max_context)
    trace = fused(model)
    weights = matrices(trace)
    lower(trace, Outline(plan), dict.fromkeys(weights), offsets(model, cache.dtype))
    return {
        "weights": sum(map(packed_bytes, weights)),
        "kv": cache.num_blocks * block_bytes(model.attention, cache.block_size, cache.dtype),
        "scratch": plan.scratch_bytes,
    }
