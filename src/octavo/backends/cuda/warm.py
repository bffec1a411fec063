"""Steps before the first request, so that no request waits for Triton's compiler. It keeps what it compiled on disk:
the first start with a model takes longest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from octavo.backends.cuda.launch import DENSE, HEAD_ROWS, QUANTISED
from octavo.kv.planner import blocks_for
from octavo.sampling.arrays import greedy
from octavo.types import Batch

logger = logging.getLogger(__name__)


def warm_up(run: Callable[[Batch], object], most: int, block_size: int) -> None:
    """Runs a step for each kind of tile, of up to `most` tokens."""
    began = time.perf_counter()
    for tokens in sorted({min(size, most) for size in (1, *DENSE, *QUANTISED)}):
        run(nothing(tokens, block_size))
    logger.info("compiled and loaded the kernels: %.1f s", time.perf_counter() - began)


def nothing(tokens: int, block_size: int) -> Batch:
    """A step of one sequence that stores no keys and samples."""
    positions, rows = np.arange(tokens, dtype=np.int32), min(tokens, HEAD_ROWS)
    return Batch(
        token_ids=np.zeros(tokens, np.int32),
        positions=positions,
        slot_mapping=np.full(tokens, -1, np.int32),
        query_starts=np.array([0, tokens], np.int32),
        context_lens=np.array([tokens], np.int32),
        block_tables=np.zeros((1, blocks_for(tokens, block_size)), np.int32),
        logit_rows=positions[-rows:],
        targets=np.full(rows, -1, np.int32),
        sampling=replace(greedy(rows), temperature=np.ones(rows, np.float32), plain_greedy=False),
        num_logprobs=0,
    )
