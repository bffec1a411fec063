"""Paged attention: one rule for prompt chunks, decoding, drafts and draft trees. work.py says which row sees which key.

A row's keys are cut into splits of SPLIT keys from index 0. A split has its own maximum, rounded up to an integer in
base 2, so every later rescaling is by a power of two and exact. Splits give the same bits whether one program adds them
on its way (WHOLE) or each is written to memory and `add_parts` adds them.
"""

import triton
import triton.language as tl

from octavo.backends.cuda.kernels.elementwise import tanh


@triton.jit
def one_split(
    q, pool, scales, blob, table, path, j0, end, lo, lim, tail, k_at, v_at, k_scale_at, v_scale_at, head, dv, scale,
    block_stride, scale_stride,
    D: tl.constexpr, VD: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, SPLIT: tl.constexpr,
    CAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """(maximum, sum, weighted values) of keys j0 to j0 + SPLIT. Key j lies where `table` says, from `tail` on where
    `path` does. dv: the values' columns. MASK: a row sees keys lo to lim only; none from `end` on is read."""
    j = j0 + tl.arange(0, SPLIT)
    d = tl.arange(0, BLOCK)
    read = j < end
    page = tl.load(blob + table + j // PAGE, mask=read & (j < tail), other=0)
    slot = page * PAGE + j % PAGE
    slot = tl.where(j < tail, slot, tl.load(blob + path + j - tail, mask=read & (j >= tail), other=0))
    page = (slot // PAGE).to(tl.int64)
    row = head * PAGE + slot % PAGE
    at = page * block_stride
    k_mask = read[None, :] & (d[:, None] < D)
    v_mask = read[:, None] & (dv[None, :] < VD)  # stale values may be NaN, which times weight 0 is NaN
    keys = tl.load(pool + (at + k_at + row * D)[None, :] + d[:, None], mask=k_mask, other=0.0)
    values = tl.load(pool + (at + v_at + row * VD)[:, None] + dv[None, :], mask=v_mask, other=0.0)
    s = tl.dot(q, keys.to(q.dtype), input_precision="ieee")
    if scales is not None:
        s *= tl.load(scales + page * scale_stride + k_scale_at + row, mask=read, other=0.0)[None, :]
    if CAP > 0:
        s = tanh(s * scale / CAP) * (CAP * 1.4426950408889634)
        scale = 1.0
    else:
        scale = scale * 1.4426950408889634
    if MASK:
        s = tl.where((j[None, :] <= lim[:, None]) & (j[None, :] >= lo[:, None]), s, float("-inf"))
    m = tl.math.ceil(tl.max(s, 1) * scale)
    safe = tl.where(m == float("-inf"), 0.0, m)
    w = tl.exp2(s * scale - safe[:, None])
    z = tl.sum(w, 1)
    if scales is not None:
        w *= tl.load(scales + page * scale_stride + v_scale_at + row, mask=read, other=0.0)[None, :]
    return m, z, tl.dot(w.to(q.dtype), values.to(q.dtype), input_precision="ieee")


@triton.jit
def add(m0, z0, acc0, m1, z1, acc1):
    """Adds a split to those before it. The factors are powers of two, so only the sums round."""
    m = tl.maximum(m0, m1)
    a0 = tl.exp2(m0 - m)
    a1 = tl.exp2(m1 - m)
    return m, z0 * a0 + z1 * a1, acc0 * a0[:, None] + acc1 * a1[:, None]


@triton.jit
def attend(
    out, part_acc, part_mz, q, pool, scales, blob, last, tails, path_at, part_at,
    scale, k_at, v_at, k_scale_at, v_scale_at, block_stride, scale_stride,
    ITEMS: tl.constexpr, TABLES: tl.constexpr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, VD: tl.constexpr, BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, PAGE: tl.constexpr, M: tl.constexpr, SPLIT: tl.constexpr, WINDOW: tl.constexpr,
    CAP: tl.constexpr, WHOLE: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Items [n, 4] int32: row of the tables, first token, tokens, split. A tile: these tokens' G heads of one kv head.

    WHOLE: all splits, added here; else one, written to the token's parts. blob[ITEMS] and blob[ITEMS + 1]: where the
    items begin, and how many there are; blob[TABLES], blob[TABLES + 1]: where the tables begin, and their width.
    Programs walk the items, so the grid does not depend on them. A program has V_BLOCK columns of the values: registers
    cannot hold the sums of wide heads. Grid: any number, KV_HEADS * PIECES."""
    G: tl.constexpr = HEADS // KV_HEADS
    head = tl.program_id(1) // PIECES
    rows = tl.arange(0, M)
    d = tl.arange(0, BLOCK)
    dv = tl.program_id(1) % PIECES * V_BLOCK + tl.arange(0, V_BLOCK)
    items = blob + tl.load(blob + ITEMS)
    for index in range(tl.program_id(0), tl.load(blob + ITEMS + 1), tl.num_programs(0)):
        item = items + index * 4
        first = tl.load(item + 1)
        count = tl.load(item + 2)
        split = tl.load(item + 3)
        table = tl.load(blob + TABLES) + tl.load(item) * tl.load(blob + TABLES + 1)
        path = tl.load(path_at + first)
        # A tile of several tokens ends below the splits that hold a node's own keys; a node alone has them too.
        tail = tl.where(count == 1, tl.load(tails + first), 2147483647)
        mine = rows < count * G
        token = first + tl.where(mine, rows // G, 0)
        lim = tl.load(last + token)
        lo = lim * 0
        if WINDOW > 0:
            lo = tl.maximum(lim - (WINDOW - 1), 0)
        lim = tl.where(count == 1, lim, tl.minimum(lim, tl.load(tails + token) // SPLIT * SPLIT - 1))
        lim = tl.where(mine, lim, -1)
        end = tl.max(lim, 0) + 1
        at = token * HEADS + head * G + rows % G
        qv = tl.load(q + at[:, None].to(tl.int64) * D + d[None, :], mask=mine[:, None] & (d[None, :] < D), other=0.0)
        if WHOLE:
            m = tl.full([M], -1e30, tl.float32)
            z = tl.zeros([M], tl.float32)
            acc = tl.zeros([M, V_BLOCK], tl.float32)
            full = 0  # from here on and below `masked` every row sees every key
            if WINDOW > 0:
                begin = tl.min(tl.where(mine, lo, 2147483647), 0) // SPLIT * SPLIT
                full = tl.cdiv(tl.max(lo, 0), SPLIT) * SPLIT
                for j0 in range(begin, tl.minimum(full, end), SPLIT):
                    m1, z1, acc1 = one_split(
                        qv, pool, scales, blob, table, path, j0, end, lo, lim, tail, k_at, v_at, k_scale_at, v_scale_at,
                        head, dv, scale, block_stride, scale_stride, D, VD, BLOCK, PAGE, SPLIT, CAP, True,
                    )  # fmt: skip
                    m, z, acc = add(m, z, acc, m1, z1, acc1)
            masked = tl.maximum((tl.min(tl.where(mine, lim, 2147483647), 0) + 1) // SPLIT * SPLIT, full)
            for j0 in range(full, masked, SPLIT):
                m1, z1, acc1 = one_split(
                    qv, pool, scales, blob, table, path, j0, end, lo, lim, tail, k_at, v_at, k_scale_at, v_scale_at,
                    head, dv, scale, block_stride, scale_stride, D, VD, BLOCK, PAGE, SPLIT, CAP, False,
                )  # fmt: skip
                m, z, acc = add(m, z, acc, m1, z1, acc1)
            for j0 in range(masked, end, SPLIT):
                m1, z1, acc1 = one_split(
                    qv, pool, scales, blob, table, path, j0, end, lo, lim, tail, k_at, v_at, k_scale_at, v_scale_at,
                    head, dv, scale, block_stride, scale_stride, D, VD, BLOCK, PAGE, SPLIT, CAP, True,
                )  # fmt: skip
                m, z, acc = add(m, z, acc, m1, z1, acc1)
            to = out + at[:, None].to(tl.int64) * VD + dv[None, :]
            tl.store(to, (acc / z[:, None]).to(out.dtype.element_ty), mask=mine[:, None] & (dv[None, :] < VD))
        else:
            m, z, acc = one_split(
                qv, pool, scales, blob, table, path, split * SPLIT, end, lo, lim, tail, k_at, v_at, k_scale_at,
                v_scale_at, head, dv, scale, block_stride, scale_stride, D, VD, BLOCK, PAGE, SPLIT, CAP, True,
            )  # fmt: skip
            mine = mine & (lim >= split * SPLIT) & (lo < split * SPLIT + SPLIT)
            part = tl.load(part_at + token) + split - lo // SPLIT
            to = part.to(tl.int64) * HEADS + head * G + rows % G
            tl.store(part_acc + to[:, None] * VD + dv[None, :], acc, mask=mine[:, None] & (dv[None, :] < VD))
            tl.store(part_mz + to * 2, m, mask=mine)
            tl.store(part_mz + to * 2 + 1, z, mask=mine)


@triton.jit
def add_parts(
    out, part_acc, part_mz, blob, last, part_at,
    ROWS_AT: tl.constexpr, HEADS: tl.constexpr, VD: tl.constexpr, V_BLOCK: tl.constexpr, H_BLOCK: tl.constexpr,
    SPLIT: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Adds the parts of a token in order: `attend`'s sums. blob[ROWS_AT], blob[ROWS_AT + 1]: the list of such tokens.

    Grid: the most such tokens, HEADS / H_BLOCK."""
    i = tl.program_id(0)
    if i < tl.load(blob + ROWS_AT + 1):
        token = tl.load(blob + tl.load(blob + ROWS_AT) + i)
        head = tl.program_id(1) * H_BLOCK + tl.arange(0, H_BLOCK)
        there = head < HEADS
        dv = tl.arange(0, V_BLOCK)
        inside = there[:, None] & (dv[None, :] < VD)
        end = tl.load(last + token)
        begin = 0
        if WINDOW > 0:
            begin = tl.maximum(end - (WINDOW - 1), 0) // SPLIT
        m = tl.full([H_BLOCK], -1e30, tl.float32)
        z = tl.zeros([H_BLOCK], tl.float32)
        acc = tl.zeros([H_BLOCK, V_BLOCK], tl.float32)
        for split in range(begin, end // SPLIT + 1):
            at = (tl.load(part_at + token) + split - begin).to(tl.int64) * HEADS + head
            m1 = tl.load(part_mz + at * 2, mask=there, other=0.0)
            z1 = tl.load(part_mz + at * 2 + 1, mask=there, other=1.0)
            acc1 = tl.load(part_acc + at[:, None] * VD + dv[None, :], mask=inside, other=0.0)
            m, z, acc = add(m, z, acc, m1, z1, acc1)
        to = out + (token * HEADS + head).to(tl.int64)[:, None] * VD + dv[None, :]
        tl.store(to, (acc / z[:, None]).to(out.dtype.element_ty), mask=inside)
