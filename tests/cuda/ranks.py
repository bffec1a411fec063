"""A rank of tensor parallelism in its own process: python -m tests.cuda.ranks RANK RANKS ADDRESS MODEL OUT

Runs `batches` on its share of the model and writes the logits. RANKS 1: the whole model, without a group."""

from __future__ import annotations

import sys
from pathlib import Path

import tests.cuda.conftest  # noqa: F401  the interpreter's settings; before Triton is imported

# isort: split
import numpy as np
import torch

from octavo.backends.cuda.backend import CudaBackend
from octavo.backends.cuda.parallel import Ranks
from octavo.backends.plan.shard import Share, sharded
from octavo.config import CacheConfig
from octavo.models.registry import load_model
from octavo.types import Batch
from tests.batches import Row, make_batch

IDS = np.random.default_rng(0).integers(0, 320, 24).tolist()


def batches() -> list[Batch]:
    """A prompt beside another one, then both decode."""
    prompts = [Row(IDS[:18], all_rows=True), Row(IDS[18:21], table=[5, 6])]
    decode = [Row(IDS[21:22], start=18), Row(IDS[22:23], start=3, table=[5, 6])]
    return [make_batch(rows, want_logits=True) for rows in (prompts, decode)]


def main(rank: int, ranks: int, address: str, path: str, out: str) -> None:
    model, share = load_model(Path(path)), Share(rank, ranks)
    device = torch.device("cpu")
    group = Ranks(share, address, device) if ranks > 1 else None
    model = sharded(model, share) if ranks > 1 else model
    limits = {"max_tokens": 32, "max_seqs": 4, "max_context": 64}
    backend = CudaBackend(model, CacheConfig(8, 16, "f32"), device="cpu", ranks=group, **limits)
    found = [backend.run(batch).logits for batch in batches()]
    np.save(out, np.concatenate([logits for logits in found if logits is not None]))
    print(backend.memory()["weights"], backend.memory()["kv"])
    if group is not None:
        group.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
