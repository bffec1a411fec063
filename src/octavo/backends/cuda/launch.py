"""A launch of a kernel, and the one table of tile geometry: nothing is tuned while running, so numbers never depend on
a run's timing, and CI compiles just what will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from octavo.backends.cuda.device import interpreted

INTERPRETED = interpreted()  # kernels run in numpy, on the CPU
OPTIONS: dict[str, Any] = {} if INTERPRETED else {"enable_fp_fusion": False}  # two kernels must round alike


@dataclass(frozen=True)
class Launch:
    """kernel[grid](*arguments, **constants)"""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    sizes: str = ""  # that tell it from others of its kernel

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.sizes}".strip()

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants, **OPTIONS)

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


def matmul_tile(tokens: int, quantised: bool, f32: bool) -> Tile:
    """f32: the operands' type."""
    table = NUMPY if INTERPRETED else QUANTISED if quantised else DENSE_F32 if f32 else DENSE
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


VALUES = 128  # columns of the values that a program of attention sums: more spill
# (type of the KV cache, dimensions of a head at most) -> (tile of whole, of parts): those that spill least on an H100.
# Whole and parts have one split. Warps share no row, so a row's sums have one order in both.
ATTEND = {
    ("bf16", 128): (Attend(128, 128, 8, 2), Attend(64, 128, 4, 2)),
    ("bf16", 256): (Attend(128, 64, 8, 1), Attend(64, 64, 4, 2)),
    ("bf16", 1 << 30): (Attend(128, 32, 8, 1), Attend(64, 32, 4, 1)),
    ("int8", 256): (Attend(128, 64, 8, 1), Attend(64, 64, 4, 1)),
    ("int8", 1 << 30): (Attend(128, 32, 8, 1), Attend(64, 32, 4, 1)),
    ("f32", 1 << 30): (Attend(16, 32, 4, 1), Attend(16, 32, 4, 1)),
}


def attend_tile(head_dim: int, whole: bool, kv: str, wgmma: bool = True) -> Attend:
    """whole: one program walks all splits. kv: the type of the cache. wgmma: whether the GPU has this instruction;
    where not, Triton lays warps along the keys of a tile with more keys than rows, so parts have the rows of whole."""
    if INTERPRETED:
        return Attend(32, 32, 1, 1)
    tiles = next(tiles for (of, most), tiles in ATTEND.items() if of == kv and head_dim <= most)
    return tiles[0] if whole else tiles[1] if wgmma else tiles[0]._replace(stages=1)


RECORD = 4  # numbers that come back for each logit row: token, finite, logprob, rank
LOGITS = 2048  # of one program that looks for the largest
HEAD_ROWS = 256  # logit rows at once: a step with more runs the head in rounds
PART_TOKENS = 512  # tokens a step that may have parts
MAX_PARTS = 4096  # splits in memory at once; tokens beyond are computed whole, to the same bits
PROGRAMS = 264  # of an attention launch and head: two for each multiprocessor of an H100; they walk the items


def rows_at_once(tokens: int, interpreted: int) -> int:
    """Rows that one program of an elementwise kernel has: one on a GPU, many where a program is a turn of a loop."""
    return interpreted if INTERPRETED else 1
