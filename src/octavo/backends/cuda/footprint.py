"""What the CUDA backend would take, from the model's shapes alone: torch's "meta" tensors have shapes but no memory."""

from __future__ import annotations

from octavo.backends.cuda.backend import CudaBackend
from octavo.config import CacheConfig
from octavo.ir import Model


def footprint(
    model: Model, cache: CacheConfig, *, max_tokens: int, max_seqs: int, max_context: int | None
) -> dict[str, int]:
    """Bytes of "weights", "kv" and "scratch": what `CudaBackend.memory` says, given the same arguments."""
    backend = CudaBackend(
        model, cache, device="meta", max_tokens=max_tokens, max_seqs=max_seqs, max_context=max_context
    )
    return backend.memory()
