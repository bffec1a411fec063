"""Dense matmuls with one order of sums for every number of tokens, against cuBLAS.

    python bench/cuda/dense.py [bits] [speed]

out[t] = w x[t]: K is cut into chunks that depend on the weight's shape alone; a chunk is summed by the tensor cores in
order, chunks are added in order. Few tokens: one program a chunk, and `fold` adds. Many: a program walks all chunks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from common import COMPILE, DEVICE, GPU, INTERPRET, L2_BYTES, error, launch, microseconds, rank, run, same, say
from triton.tools.tensor_descriptor import TensorDescriptor

OPERAND = torch.float16 if INTERPRET else torch.bfloat16  # the interpreter multiplies raw bits of bf16
SHAPES = ((4096, 4096), (28672, 4096), (4096, 14336))  # N, K


@triton.jit
def one_chunk(x, w, t, n, begin, end, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, LEFT: tl.constexpr):
    """The sum over columns begin to end; LEFT: of the weights' tile on the left, [BN, BM], else [BM, BN]."""
    acc = tl.zeros([BN, BM] if LEFT else [BM, BN], tl.float32)
    for k in range(begin, end, BK):
        a = x.load([t, k])
        b = w.load([n, k])
        acc = tl.dot(b, a.T, acc) if LEFT else tl.dot(a, b.T, acc)
    return acc


@triton.jit(do_not_specialize=["T"])
def dense(
    out, x, w, T, N,
    K: tl.constexpr, CHUNK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, LEFT: tl.constexpr,
    FOLD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out [T, N] when FOLD, else f32 [chunks, T, N]. x and w are descriptors of [T, K] and [N, K]."""
    tiles_t = tl.cdiv(T, BM)
    program = tl.program_id(0)
    band = program // (GROUP * tiles_t)  # GROUP tiles of n share the tiles of t while they are in the L2 cache
    inside = program % (GROUP * tiles_t)
    n = (band * GROUP + inside % GROUP) * BN
    t = inside // GROUP * BM
    part = tl.program_id(1)
    total = one_chunk(x, w, t, n, part * CHUNK, min(part * CHUNK + CHUNK, K), BM, BN, BK, LEFT)
    if FOLD:
        for chunk in range(1, (K + CHUNK - 1) // CHUNK):
            total += one_chunk(x, w, t, n, chunk * CHUNK, min(chunk * CHUNK + CHUNK, K), BM, BN, BK, LEFT)
    rows_t = t + tl.arange(0, BM)
    rows_n = n + tl.arange(0, BN)
    if LEFT:
        to = (part.to(tl.int64) * T + rows_t[None, :]) * N + rows_n[:, None]
        tl.store(out + to, total.to(out.dtype.element_ty), mask=rows_t[None, :] < T)
    else:
        to = (part.to(tl.int64) * T + rows_t[:, None]) * N + rows_n[None, :]
        tl.store(out + to, total.to(out.dtype.element_ty), mask=rows_t[:, None] < T)


@triton.jit
def fold(out, parts, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(parts + at, mask=at < size)
    for part in range(1, PARTS):
        total += tl.load(parts + part * size + at, mask=at < size)
    tl.store(out + at, total, mask=at < size)


class Form(NamedTuple):
    """Weights as the left operand; rows and tokens of a tile; warps; columns of a step; pipeline stages."""

    left: bool
    bn: int
    bm: int
    warps: int
    bk: int = 64
    stages: int = 3


def matmul(x: torch.Tensor, w: torch.Tensor, chunk: int, form: Form) -> torch.Tensor:
    out = torch.full((x.shape[0], w.shape[0]), float("nan"), device=x.device)
    prepare(x, w, out, chunk, form)(0, tile(w, form))
    return out


def tile(w: torch.Tensor, form: Form) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(w, [form.bn, form.bk])


def prepare(
    x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, chunk: int, form: Form
) -> Callable[[int, TensorDescriptor], None]:
    """Returns a function that computes out [T, N]. From 64 tokens on one program walks all chunks of K."""
    (tokens, columns), rows = x.shape, w.shape[0]
    chunks = triton.cdiv(columns, chunk)
    folded = chunks == 1 or tokens >= 64
    parts = out if folded else torch.full((chunks, tokens, rows), float("nan"), device=x.device)
    xd = TensorDescriptor.from_tensor(x, [form.bm, form.bk])
    tiles = rows // form.bn * triton.cdiv(tokens, form.bm)
    group = next(g for g in (8, 4, 2, 1) if rows // form.bn % g == 0)

    def go(_index: int, wd: TensorDescriptor) -> None:
        launch(
            dense, (tiles, 1 if folded else chunks), parts, xd, wd, tokens, rows, K=columns, CHUNK=chunk, BM=form.bm,
            BN=form.bn, BK=form.bk, LEFT=form.left, FOLD=folded, GROUP=group, num_warps=form.warps,
            num_stages=form.stages, enable_fp_fusion=False,
        )  # fmt: skip
        if not folded:
            grid = (triton.cdiv(out.numel(), 1024),)
            launch(fold, grid, out, parts, out.numel(), PARTS=chunks, BLOCK=1024, num_warps=4)

    return go


# by tokens
FORMS: dict[int, list[Form]] = {
    1: [Form(True, 64, 16, 4, 128, 4), Form(True, 32, 16, 2, 128, 5), Form(True, 16, 16, 1, 256, 4)],
    16: [Form(True, 64, 16, 4, 128, 4), Form(True, 32, 16, 2, 128, 5), Form(True, 16, 16, 1, 256, 4)],
    64: [
        Form(True, 32, 64, 2, 128, 4), Form(True, 32, 32, 2, 128, 4), Form(True, 64, 64, 4, 64, 5),
        Form(True, 64, 32, 4, 128, 4),
    ],
    256: [
        Form(False, 64, 128, 4, 64, 5), Form(False, 64, 64, 4, 128, 3), Form(False, 128, 64, 4, 64, 5),
        Form(False, 128, 128, 8, 64, 4), Form(False, 128, 256, 8, 64, 4),
    ],
    2048: [
        Form(False, 256, 128, 8, 64, 4), Form(False, 256, 128, 8, 64, 3), Form(False, 128, 256, 8, 64, 4),
        Form(False, 128, 128, 8, 64, 4),
    ],
}  # fmt: skip


def bits() -> None:
    """Row 0 of one matmul in every form."""
    rows, columns, chunk = (128, 512, 256) if INTERPRET else (4096, 4096, 1024)
    w = torch.randn(rows, columns, device=DEVICE).to(OPERAND)
    x = torch.randn(2048, columns, device=DEVICE).to(OPERAND)
    first = matmul(x[:1], w, chunk, Form(True, 64, 16, 4))
    say("dense: error against float64", f"{error(first, x[:1].double() @ w.double().T):.1e}")
    forms = [
        (1, Form(True, 32, 16, 2, 64, 5)), (7, Form(True, 64, 16, 4, 128, 6)), (16, Form(True, 128, 16, 8)),
        (64, Form(True, 64, 64, 4)), (64, Form(False, 64, 64, 4)), (65, Form(False, 128, 128, 8)),
        (512, Form(False, 128, 128, 4)), (2048, Form(False, 256, 128, 8)), (2048, Form(False, 128, 256, 8)),
    ]  # fmt: skip
    for tokens, form in forms:
        if INTERPRET and tokens > 64:
            continue
        say(f"dense: T {tokens} {form}: same bits", same(matmul(x[:tokens], w, chunk, form)[0], first[0]))


def speed() -> None:
    for rows, columns in SHAPES:
        sets = max(2, int(4 * L2_BYTES / (2 * rows * columns)) + 1)
        ws = [torch.randn(rows, columns, device=DEVICE, dtype=OPERAND) for _ in range(sets)]
        for tokens, forms in FORMS.items():
            x = torch.randn(tokens, columns, device=DEVICE, dtype=OPERAND)
            found = [(time_cublas(x, ws), "cuBLAS")]
            for form in forms:
                for chunks in (1, 4) if tokens <= 16 else (1,):
                    found.append((time_of(form, chunks, x, ws), f"{form} {chunks} chunks"))
            rank(f"{rows} x {columns} T {tokens}", found, 2 * rows * columns, 2 * rows * columns * tokens)


def time_cublas(x: torch.Tensor, ws: list[torch.Tensor]) -> float:
    return microseconds(lambda i: torch.mm(x, ws[i].T), len(ws), calls=max(8 if len(x) > 64 else 20, len(ws)))


def time_of(form: Form, chunks: int, x: torch.Tensor, ws: list[torch.Tensor]) -> float:
    (tokens, columns), rows = x.shape, ws[0].shape[0]
    out = torch.empty(tokens, rows, device=DEVICE, dtype=torch.float32 if tokens <= 64 else OPERAND)
    go = prepare(x, ws[0], out, triton.cdiv(columns // 256, chunks) * 256, form)
    tiles = [tile(w, form) for w in ws]
    return microseconds(lambda i: go(i, tiles[i]), len(ws), calls=max(8 if tokens > 64 else 20, len(ws)))


if __name__ == "__main__":
    if not GPU and not COMPILE and not INTERPRET:
        sys.exit("this measurement needs a GPU")
    run({"bits": bits} if INTERPRET else {"bits": bits, "speed": speed}, sys.argv[1:])
