"""A launch of a kernel, and the one table of tile geometry: nothing is tuned while running, so numbers never depend on
a run's timing, and CI compiles just what will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from triton import knobs

INTERPRETED: bool = knobs.runtime.interpret  # TRITON_INTERPRET=1: kernels run in numpy, on the CPU
OPTIONS: dict[str, Any] = {} if INTERPRETED else {"enable_fp_fusion": False}  # two kernels must round alike


@dataclass(frozen=True)
class Launch:
    """kernel[grid](*arguments, **constants)"""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def __call__(self) -> None:
        self.kernel[self.grid](
            *self.arguments, **self.constants, **({} if INTERPRETED else {"enable_fp_fusion": False})
        )

    def compile(self) -> Any:
        """The compiled kernel, for the target that Triton's active driver names."""
        return self.kernel.warmup(*self.arguments, grid=self.grid, **self.constants, **OPTIONS)


class Tile(NamedTuple):
    """A matmul's rows of weights, tokens, columns a step; weights on the left; warps and pipeline stages."""

    bn: int
    bm: int
    bk: int
    left: bool
    warps: int
    stages: int


# Tokens up to which a tile is used -> the tile, measured on an H100 (docs/cuda.md, "Dense weights").
DENSE = {
    8: Tile(64, 16, 128, True, 4, 4),
    32: Tile(32, 16, 128, True, 2, 5),
    64: Tile(64, 32, 128, True, 4, 4),
    512: Tile(64, 128, 64, False, 4, 4),
    1 << 30: Tile(128, 256, 64, False, 8, 3),
}
# f32 operands have no tensor cores here (TF32 would drop bits): small tiles, whose sums stay in registers.
DENSE_F32 = {1 << 30: Tile(32, 16, 32, True, 4, 2)}
QUANTISED = {
    16: Tile(64, 16, 32, True, 4, 3),
    64: Tile(64, 64, 32, True, 4, 3),
    1 << 30: Tile(128, 128, 32, True, 8, 3),
}
# numpy sums a tile in an order that may depend on its shape: one shape for any number of tokens.
NUMPY = {1 << 30: Tile(128, 16, 32, True, 1, 1)}


def matmul_tile(tokens: int, operand: torch.dtype, quantised: bool) -> Tile:
    table = NUMPY if INTERPRETED else QUANTISED if quantised else DENSE_F32 if operand == torch.float32 else DENSE
    return next(tile for most, tile in table.items() if tokens <= most)


CHUNKS = 8  # of K, at most, in a matmul with quantised weights


def chunk_columns(columns: int) -> int:
    """Columns of one partial sum: whole superblocks. columns: K, padded."""
    return -(-columns // 256 // CHUNKS) * 256


class Attend(NamedTuple):
    """rows: of a tile (tokens x heads of a kv head). split: keys of a split, by the head's dimensions alone."""

    rows: int
    split: int
    warps: int
    stages: int


def attend_tile(head_dim: int, whole: bool, f32: bool) -> Attend:
    """whole: one program walks all splits. Warps share no row, so a row's sums have one order in both forms."""
    if INTERPRETED:
        return Attend(32, 32, 1, 1)
    if f32 or head_dim > 256:
        return Attend(16, 32, 4, 1) if f32 else Attend(64, 32, 4, 1)
    split = 128 if head_dim <= 128 else 64
    return Attend(128, split, 8, 2) if whole and head_dim <= 128 else Attend(64, split, 4, 1 if head_dim > 128 else 2)


RECORD = 4  # numbers that come back for each logit row: token, finite, logprob, rank
PART_TOKENS = 512  # tokens a step that may have parts
MAX_PARTS = 4096  # splits in memory at once; tokens beyond are computed whole, to the same bits
PROGRAMS = 264  # of an attention launch and head: two for each multiprocessor of an H100; they walk the items


def rows_at_once(tokens: int, interpreted: int) -> int:
    """Rows that one program of an elementwise kernel has: one on a GPU, many where a program is a turn of a loop."""
    return interpreted if INTERPRETED else 1
