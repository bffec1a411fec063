"""Matmuls with one order of sums for every number of tokens (docs/cuda.md): out[t, n] = sum over k of w[n, k] x[t, k].

Dense weights are summed in one chain over K. Quantised ones are summed in chunks of K that depend on the weight's shape
alone, each in one chain, and the chunks are added in order. Tiles may depend on the number of tokens; steps may not.
"""

import triton
import triton.language as tl

from octavo.backends.cuda.kernels.weights import decode


@triton.jit
def finish(out, acc, n, t, N, T, out_stride, factor, bias, INTO: tl.constexpr):
    """Stores a tile: factor * acc + bias, added to what `out` holds when INTO. n, t: broadcast to acc's shape."""
    there = (n < N) & (t < T)
    to = out + t.to(tl.int64) * out_stride + n
    value = acc * factor
    if bias is not None:
        value += tl.load(bias + n, mask=n < N, other=0.0)
    if INTO:
        value += tl.load(to, mask=there, other=0.0)
    tl.store(to, value.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["T"])
def quantised(
    out, x, w, levels, bias, factor, T, N, K, x_stride, out_stride,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr, FORMAT: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    INTO: tl.constexpr,
):  # fmt: skip
    """w: encodings.Arrays, the left operand, rounded to x's type. COLUMNS: K padded; CHUNK: columns of one partial sum.

    Grid: N / BN, T / BM."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    t = tl.program_id(1) * BM + tl.arange(0, BM)[None, :]
    rows = tl.minimum(n, N - 1).to(tl.int64)
    i = tl.arange(0, 32)[:, None]
    total = tl.zeros([BN, BM], tl.float32)
    for chunk in range(0, COLUMNS, CHUNK):
        acc = tl.zeros([BN, BM], tl.float32)
        for block in range(chunk // 32, tl.minimum(chunk + CHUNK, COLUMNS) // 32):
            k = block * 32 + i
            xs = tl.load(x + t.to(tl.int64) * x_stride + k, mask=(t < T) & (k < K), other=0.0)
            acc = tl.dot(decode(w, levels, rows, block, COLUMNS, FORMAT).to(xs.dtype), xs, acc)
        total += acc
    finish(out, total, n, t, N, T, out_stride, factor, bias, INTO)


@triton.jit(do_not_specialize=["T"])
def dense(
    out, x, w, bias, factor, T, N, K, out_stride,
    BN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, LEFT: tl.constexpr, BAND: tl.constexpr, INTO: tl.constexpr,
):  # fmt: skip
    """x and w are tensor descriptors of [T, K] and [N, K]. LEFT: the weights are the left operand.

    Grid: all tiles; BAND tiles of n share the tiles of t while they are in the L2 cache."""
    tiles_n = tl.cdiv(N, BN)
    tiles_t = tl.cdiv(T, BM)
    first = tl.program_id(0) // (BAND * tiles_t) * BAND
    size = tl.minimum(tiles_n - first, BAND)
    inside = tl.program_id(0) % (BAND * tiles_t)
    n0 = (first + inside % size) * BN
    t0 = inside // size * BM
    acc = tl.zeros([BN, BM] if LEFT else [BM, BN], tl.float32)
    for k in range(0, K, BK):
        xs = x.load([t0, k])
        ws = w.load([n0, k]).to(xs.dtype)
        if LEFT:
            acc = tl.dot(ws, xs.T, acc, input_precision="ieee")
        else:
            acc = tl.dot(xs, ws.T, acc, input_precision="ieee")
    if LEFT:
        n = n0 + tl.arange(0, BN)[:, None]
        t = t0 + tl.arange(0, BM)[None, :]
    else:
        n = n0 + tl.arange(0, BN)[None, :]
        t = t0 + tl.arange(0, BM)[:, None]
    finish(out, acc, n, t, N, T, out_stride, factor, bias, INTO)
