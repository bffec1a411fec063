"""
Octavo's native core: packed weights, the KV cache, step plans and the kernels of each instruction set.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Annotated

import numpy
from numpy.typing import NDArray

ops: ModuleType

def isas() -> list[str]:
    """Instruction sets that this build and this processor have, best first."""

def limit_loops(isa: str) -> list[tuple[str, str]]:
    """
    (kind, instruction) of the instructions whose throughput can be measured.
    """

def ops_per_second(isa: str, instruction: str, pool: Pool, repeat: int) -> float:
    """
    Operations per second of all the pool's threads together: the best of `repeat` runs of about 10 ms.
    """

class ReadBuffer:
    """A buffer that is read to measure the speed of memory."""

    def __init__(self, pool: Pool, bytes: int) -> None: ...
    @property
    def bytes(self) -> int: ...
    def bytes_per_second(self, isa: str, pool: Pool, streams: int, repeat: int) -> float:
        """
        Bytes per second that all threads read, each from `streams` (1, 2, 4 or 8) places at once; best of `repeat`.
        """

def unpack(
    type: str,
    source: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
    N: int,
    K: int,
) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
    """Packs a tensor and unpacks it again: [N, K] float32."""

def matmul(
    isa: str,
    type: str,
    source: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
    N: int,
    x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    max_tile: int = 0,
    repeat: int = 1,
) -> tuple[Annotated[NDArray[numpy.float32], dict(shape=(None, None))], float]:
    """
    (x @ w.T [T, N], seconds of the best of `repeat` runs on the calling thread).
    """

def quantized(
    isa: str,
    type: str,
    x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)],
) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
    """
    The values of x as int8 activations for matmuls with `type`: [T, K] float32.
    """

class Pool:
    """Worker threads; the calling thread is one of them."""

    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

LAYOUT_VERSION: int = 1

class PackedWeight:
    """
    A weight in panels: one that `Weights.pack` made, or a view of panels made earlier.
    """

    def __init__(
        self,
        type: str,
        data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
        N: int,
        K: int,
    ) -> None:
        """
        data: uint8 [packed_bytes(type, N, K)] at a 64-byte boundary; kept, not copied.
        """

    @property
    def N(self) -> int: ...
    @property
    def K(self) -> int: ...
    def row(self, row: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """The values of a row as float32: [K]."""

class Weights:
    """Memory for a model's packed weights."""

    def __init__(self, bytes: int) -> None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def data(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), writable=False)]:
        """The whole memory, for writing to a file: uint8 [bytes], read-only."""

    def pack(
        self,
        pool: Pool,
        type: str,
        source: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
        N: int,
        K: int,
        offset: int,
    ) -> PackedWeight: ...

def packed_bytes(type: str, N: int, K: int) -> int: ...
def act_spec(type: str) -> tuple[int, int]:
    """
    (k of an activation scale, bit set of the sums wanted) for matmuls with this type; (0, 0) for dense types.
    """

class KvCache:
    def __init__(self, layers: Sequence[tuple[int, int]], num_blocks: int, block_size: int, type: int) -> None: ...
    def transfer(
        self,
        moves: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu", writable=False)],
        copies: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    ) -> None:
        """
        Copies slots and then blocks, in order: (source, target) pairs, int32 [n, 2].
        """

    @property
    def bytes(self) -> int: ...

class Plan:
    def __init__(self, isa: str, pool: Pool, kv: KvCache, max_tokens: int, max_seqs: int, max_context: int) -> None: ...
    def weight(self, arg: PackedWeight, /) -> int: ...
    def constant(
        self, arg: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)], /
    ) -> int: ...
    def buffer(self, width: int) -> int: ...
    def act(self, K: int, group: int, sides: int) -> int: ...
    def embed(self, weight: int, out: int, scale: float) -> None: ...
    def linear(
        self, x: int, act: int, norm: int, eps: float, segments: Sequence[tuple[int, int, int, int, int, bool]]
    ) -> None:
        """
        segments: (weight, up or -1, activation, bias constant or -1, out buffer, residual)
        """

    def linear_dense(self, x: int, segments: Sequence[tuple[int, int, int, int, int, bool]]) -> None: ...
    def rms_norm(self, x: int, width: int, weight: int, eps: float, out: int, residual: bool) -> None: ...
    def add(self, x: int, out: int) -> None: ...
    def gated(self, gate: int, up: int, activation: int, out: int) -> None: ...
    def rope_angles(self, inv_freq: int, scale: float, out: int, sinks_out: int) -> None: ...
    def middle_angles(self, inv_freq: int, scale: float) -> int:
        """The angles that key offsets need, as a constant."""

    def qkv(
        self,
        q: int,
        k: int,
        v: int,
        heads: int,
        layer: int,
        q_norm: int,
        k_norm: int,
        eps: float,
        angles: int,
        rope_dim: int,
        interleaved: bool,
        offset: tuple[int, int, int, bool],
        q_sinks: int,
        sink_angles: int,
    ) -> None:
        """
        offset: (bias constant, middle_angles, rope_dim, interleaved) of a quantised cache's key offset; bias -1: none
        """

    def attention(
        self,
        q: int,
        q_sinks: int,
        out: int,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        scale: float,
        softcap: float,
        offset: tuple[int, int, int, bool],
    ) -> None: ...
    def logit_rows(self, x: int) -> int: ...
    def logits(self, buffer: int, vocab: int, softcap: float) -> None: ...
    def hidden(self, buffer: int, norm: int, eps: float) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def barriers(self, tokens: int) -> int:
        """
        The number of operations in the trunk that a step of that many tokens waits for.
        """

    def profile(self, on: bool) -> None:
        """Starts or stops counting the seconds of each operation, from 0."""

    def profiled(self, decoding: bool) -> dict[str, float]:
        """
        {operation: seconds} since `profile(True)`: of decoding steps (one token per sequence), or of the other steps.
        """

    def run(
        self,
        token_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        positions: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        slot_mapping: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        query_starts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        context_lens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        block_tables: Annotated[
            NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu", writable=False)
        ],
        logit_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        targets: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        sampling: object | None,
        parents: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)] | None,
        sinks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)] | None,
        windows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)] | None,
        sink_positions: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)]
        | None,
        tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
        finite: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
        logprobs: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")] | None,
        ranks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")] | None,
        top_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")] | None,
        top_logprobs: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")] | None,
        num_top: int,
        logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")] | None,
        hidden: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")] | None,
        compact_to: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)]
        | None = None,
        keep: int = 0,
        pool: int = 1,
    ) -> None:
        """
        Runs a step. Raises ValueError, before anything is written, for a value that lies outside the plan's or the pool's bounds.
        """
