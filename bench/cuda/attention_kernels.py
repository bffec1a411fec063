"""The attention kernels that attention.py measures: paged, causal, one order of sums for prefill and decode.

A row's keys are cut into splits of SPLIT keys from position 0. A split has its own maximum, rounded up to an integer in
base 2, so that every later rescaling is by a power of two and exact: splits may be folded by one program on its way
(prefill) or from memory with all maxima known (decode), with the same bits.
"""

# ruff: noqa: E501 (Triton kernels read best with their constants on few lines)

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def split_of_keys(qv, k, v, table, j0, end, lim, base, scale, STEP: tl.constexpr, SPLIT: tl.constexpr, D: tl.constexpr,
                  PAGE: tl.constexpr, STRIDE: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """(max, sum, weighted values) of keys j0 to j0 + SPLIT. MASK: only keys up to a row's `lim`, below `end`."""
    d = tl.arange(0, D)
    m = tl.full([qv.shape[0]], float("-inf"), tl.float32)
    z = tl.zeros([qv.shape[0]], tl.float32)
    acc = tl.zeros([qv.shape[0], D], tl.float32)
    for j1 in range(j0, tl.minimum(j0 + SPLIT, end) if MASK else j0 + SPLIT, STEP):
        j = j1 + tl.arange(0, STEP)
        ok = j < end
        page = tl.load(table + j // PAGE, mask=ok, other=0) if MASK else tl.load(table + j // PAGE)
        at = page.to(tl.int64) * STRIDE + base + j % PAGE * D
        keys = tl.load(k + at[None, :] + d[:, None])
        values = (
            tl.load(v + at[:, None] + d[None, :], mask=ok[:, None], other=0.0)
            if MASK
            else tl.load(v + at[:, None] + d[None, :])
        )
        s = tl.dot(qv, keys)
        if MASK:
            s = tl.where(j[None, :] <= lim[:, None], s, float("-inf"))
        top = tl.math.ceil(tl.max(s, 1) * scale)
        if SPLIT == STEP:
            m = top
        else:
            new = tl.maximum(m, top)
            a = tl.exp2(m - (tl.where(new == float("-inf"), 0.0, new) if MASK else new))
            z *= a
            acc *= a[:, None]
            m = new
        safe = tl.where(m == float("-inf"), 0.0, m) if MASK else m
        w = tl.exp2(tl.fma(s, tl.full(s.shape, scale, tl.float32), tl.broadcast_to(0.0 - safe[:, None], s.shape)))
        z += tl.sum(w, 1)
        acc = tl.dot(w.to(qv.dtype), values, acc)
    return m, z, acc


@triton.jit
def add(m0, z0, acc0, m1, z1, acc1):
    """Adds a split to those before it; the factors are powers of two. A split that a row does not see has m1 = -inf."""
    m = tl.maximum(m0, m1)
    a0 = tl.exp2(m0 - m)
    a1 = tl.exp2(m1 - m)
    return m, tl.fma(z0, a0, z1 * a1), tl.fma(acc0, a0[:, None] + tl.zeros_like(acc0), acc1 * a1[:, None])


@triton.jit(do_not_specialize=["T", "table_stride", "tiles"])
def attend(out, part_acc, part_mz, q, k, v, tables, positions, T, table_stride, tiles, scale,
           G: tl.constexpr, KH: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
           SPLIT: tl.constexpr, SPLITS: tl.constexpr, FOLD: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Tiles of ROWS query tokens x G heads of one kv head, `tiles` a sequence. FOLD: all splits here; else one split a
    program, written to memory."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0) if FOLD else tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.arange(0, M)
    d = tl.arange(0, D)
    mine = (rows < ROWS * G) & (tile * ROWS + rows // G < T)
    token = tile * ROWS + tl.where(mine, rows // G, 0)
    at = (token * KH + head) * G + rows % G
    qv = tl.load(q + at[:, None].to(tl.int64) * D + d[None, :], mask=mine[:, None], other=0.0)
    lim = tl.where(mine, tl.load(positions + token), -1)
    end = tl.max(lim, 0) + 1
    table = tables + tile // tiles * table_stride
    STRIDE: tl.constexpr = KH * PAGE * D
    base = head * PAGE * D
    if FOLD:
        full = (tl.min(tl.where(mine, lim, 2147483647), 0) + 1) // SPLIT * SPLIT  # below it every row sees every key
        m = tl.full([M], -1e30, tl.float32)
        z = tl.zeros([M], tl.float32)
        acc = tl.zeros([M, D], tl.float32)
        for j0 in tl.range(0, full, SPLIT, num_stages=STAGES):
            m1, z1, acc1 = split_of_keys(
                qv, k, v, table, j0, end, lim, base, scale, STEP, SPLIT, D, PAGE, STRIDE, False
            )
            m, z, acc = add(m, z, acc, m1, z1, acc1)
        for j0 in range(full, end, SPLIT):
            m1, z1, acc1 = split_of_keys(qv, k, v, table, j0, end, lim, base, scale, STEP, SPLIT, D, PAGE, STRIDE, True)
            m, z, acc = add(m, z, acc, m1, z1, acc1)
        o = acc / z[:, None]
        tl.store(out + at[:, None].to(tl.int64) * D + d[None, :], o.to(out.dtype.element_ty), mask=mine[:, None])
    else:
        split = tl.program_id(2)
        if split * SPLIT < end:
            m, z, acc = split_of_keys(
                qv, k, v, table, split * SPLIT, end, lim, base, scale, STEP, SPLIT, D, PAGE, STRIDE, True
            )
            to = at * SPLITS + split
            tl.store(part_acc + to[:, None].to(tl.int64) * D + d[None, :], acc, mask=mine[:, None])
            tl.store(part_mz + to * 2, m, mask=mine)
            tl.store(part_mz + to * 2 + 1, z, mask=mine)


@triton.jit
def add_parts(out, part_acc, part_mz, at, splits, D: tl.constexpr, SPLITS: tl.constexpr):
    """Adds the splits of one row and head in order."""
    d = tl.arange(0, D)
    i = tl.arange(0, SPLITS)
    m = tl.load(part_mz + (at * SPLITS + i) * 2, mask=i < splits, other=float("-inf"), cache_modifier=".cg")
    top = tl.max(m, 0)
    z = tl.zeros([D], tl.float32)
    acc = tl.zeros([D], tl.float32)
    for split in tl.range(0, splits, loop_unroll_factor=8):
        to = at * SPLITS + split
        a = tl.exp2(tl.load(part_mz + to * 2 + d * 0, cache_modifier=".cg") - top)
        z = tl.fma(tl.load(part_mz + to * 2 + 1 + d * 0, cache_modifier=".cg"), a, z)
        acc = tl.fma(tl.load(part_acc + to.to(tl.int64) * D + d, cache_modifier=".cg"), a, acc)
    tl.store(out + at.to(tl.int64) * D + d, (acc / z).to(out.dtype.element_ty))


@triton.jit
def add_all_parts(out, part_acc, part_mz, positions, G: tl.constexpr, KH: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr,
                  SPLITS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0)
    splits = tl.load(positions + token) // SPLIT + 1
    add_parts(out, part_acc, part_mz, token * KH * G + tl.program_id(1), splits, D, SPLITS)
