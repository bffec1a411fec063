"""Rows by index: of the embedding table, of any values, with a change of type on the way."""

import triton
import triton.language as tl

from octavo.backends.cuda.kernels.weights import decode


@triton.jit
def known(ids, chosen):
    """ids, with -1 - row replaced by what the step before chose for this row: chosen int32 [rows, 4], token first."""
    return tl.where(ids < 0, tl.load(chosen + 4 * (-1 - ids), mask=ids < 0, other=0), ids)


@triton.jit(do_not_specialize=["T"])
def embed(
    out, ids, chosen, w, levels, scale, T, K, out_stride, COLUMNS: tl.constexpr, FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """out f32 [T, K] = scale * the table's rows `ids`. Grid: T / ROWS, superblocks of 256 columns."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    there = t < T
    rows = known(tl.load(ids + t, mask=there, other=0), chosen).to(tl.int64)
    for step in tl.static_range(8):
        block = tl.program_id(1) * 8 + step
        k = block * 32 + tl.arange(0, 32)[None, :]
        value = decode(w, levels, rows, block, COLUMNS, FORMAT) * scale
        tl.store(out + t.to(tl.int64) * out_stride + k, value, mask=there & (k < K))


@triton.jit(do_not_specialize=["T"])
def gather(out, x, index, chosen, scale, T, W, x_stride, out_stride, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """out [T, W] = scale * x[index], in out's type; index None: the same rows. chosen: None, or as in `known`.

    Grid: T / ROWS, W / BLOCK."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = (t < T) & (c < W)
    row = t
    if index is not None:
        row = tl.load(index + t, mask=t < T, other=0)
    if chosen is not None:
        row = known(row, chosen)
    value = tl.load(x + row.to(tl.int64) * x_stride + c, mask=there, other=0.0).to(tl.float32) * scale
    tl.store(out + t.to(tl.int64) * out_stride + c, value.to(out.dtype.element_ty), mask=there)
