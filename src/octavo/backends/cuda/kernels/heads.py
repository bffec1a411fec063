"""Between the projections and attention: head norms and rotation; q into the operand's type, k and v into the pool."""

import triton
import triton.language as tl


@triton.jit
def hadamard(x, ROWS: tl.constexpr, N: tl.constexpr):
    """x [ROWS, N] f32, N a power of two: each row times the orthonormal Walsh-Hadamard matrix.

    native/kernels/rotation.inc says what for. Here int8 keys and their queries are rotated, but not values, whose
    rounding costs little: a program of attention has only a part of a head's values to rotate back."""
    for stage in tl.static_range(16):
        if 2**stage < N:
            even, odd = tl.split(tl.reshape(x, (ROWS, N // 2, 2)))
            x = tl.reshape(tl.permute(tl.join(even + odd, even - odd), (0, 2, 1)), (ROWS, N))
    return x * (1.0 / tl.sqrt(tl.full((1, 1), N, tl.float32)))


@triton.jit
def prepared(
    x, stride, weight, angles, positions, eps, t, head, there,
    D: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK] f32: heads `head` of tokens t [ROWS, 1], normalised if there is a weight, the first DIM values
    rotated."""
    d = tl.arange(0, BLOCK)[None, :]
    inside = there & (d < D)
    row = x + t.to(tl.int64) * stride + head * D
    value = tl.load(row + d, mask=inside, other=0.0)
    norm = 1.0
    if weight is not None:
        norm = tl.sqrt(tl.sum(value * value, 1)[:, None] / D + eps)
        value = value / norm * tl.load(weight + d, mask=d < D, other=0.0)
    if DIM > 0:
        if INTERLEAVED:
            other = d ^ 1
            pair = d // 2
            first = d % 2 == 0
        else:
            other = tl.where(d < DIM // 2, d + DIM // 2, d - DIM // 2)
            pair = d % (DIM // 2)
            first = d < DIM // 2
        rotated = inside & (d < DIM)
        partner = tl.load(row + other, mask=rotated, other=0.0)
        if weight is not None:
            partner = partner / norm * tl.load(weight + other, mask=d < DIM, other=0.0)
        angle = angles + tl.load(positions + t, mask=there, other=0).to(tl.int64) * DIM
        cos = tl.load(angle + pair, mask=rotated, other=1.0)
        sin = tl.load(angle + DIM // 2 + pair, mask=rotated, other=0.0)
        value = value * cos + tl.where(first, -partner, partner) * sin
    return value


@triton.jit
def store(pool, scales, value, slots, t, head, there, at, scale_at, block_stride, scale_stride,
          D: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr):  # fmt: skip
    """Writes heads to the pool at the tokens' slots (-1: nowhere). int8: code = value / scale to the nearest, ties to
    even; scale = largest magnitude / 127."""
    d = tl.arange(0, BLOCK)[None, :]
    slot = tl.load(slots + t, mask=there, other=-1)
    there = there & (slot >= 0)
    page = (slot // PAGE).to(tl.int64)
    to = pool + page * block_stride + at + (head * PAGE + slot % PAGE) * D + d
    if scales is not None:
        scale = tl.max(tl.abs(value), 1)[:, None] / 127.0
        tl.store(scales + page * scale_stride + scale_at + head * PAGE + slot % PAGE, scale, mask=there)
        # Adding 1.5 * 2^23 leaves no fraction bits, so the sum is rounded to an integer, ties to even.
        value = tl.where(scale > 0, value / scale, 0.0) + 12582912.0 - 12582912.0
    tl.store(to, value.to(pool.dtype.element_ty), mask=there & (d < D))


@triton.jit(do_not_specialize=["T"])
def heads(
    out, q, k, v, q_weight, k_weight, angles, positions, slots, pool, scales, eps, T, q_stride, k_stride, v_stride,
    k_at, v_at, k_scale_at, v_scale_at, block_stride, scale_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, VD: tl.constexpr, BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, DIM: tl.constexpr, INTERLEAVED: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """q, k, v: f32; out [T, HEADS * D]. A program has ROWS heads of q, k or v.

    Grid: T * HEADS / ROWS, then T * KV_HEADS / ROWS twice."""
    of_q = tl.cdiv(T * HEADS, ROWS)
    of_k = tl.cdiv(T * KV_HEADS, ROWS)
    program = tl.program_id(0)
    lane = tl.arange(0, ROWS)[:, None]
    if program < of_q:
        r = program * ROWS + lane
        t = r // HEADS
        there = t < T
        value = prepared(q, q_stride, q_weight, angles, positions, eps, t, r % HEADS, there, D, BLOCK, DIM, INTERLEAVED)
        if scales is not None and D == BLOCK:
            value = hadamard(value, ROWS, D)
        d = tl.arange(0, BLOCK)[None, :]
        tl.store(out + r.to(tl.int64) * D + d, value.to(out.dtype.element_ty), mask=there & (d < D))
    elif program < of_q + of_k:
        r = (program - of_q) * ROWS + lane
        t = r // KV_HEADS
        head = r % KV_HEADS
        there = t < T
        value = prepared(k, k_stride, k_weight, angles, positions, eps, t, head, there, D, BLOCK, DIM, INTERLEAVED)
        if scales is not None and D == BLOCK:
            value = hadamard(value, ROWS, D)
        store(pool, scales, value, slots, t, head, there, k_at, k_scale_at, block_stride, scale_stride, D, BLOCK, PAGE)
    else:
        r = (program - of_q - of_k) * ROWS + lane
        t = r // KV_HEADS
        head = r % KV_HEADS
        there = t < T
        value = prepared(v, v_stride, None, angles, positions, eps, t, head, there, VD, V_BLOCK, 0, False)
        store(pool, scales, value, slots, t, head, there, v_at, v_scale_at, block_stride, scale_stride, VD, V_BLOCK,
              PAGE)  # fmt: skip
