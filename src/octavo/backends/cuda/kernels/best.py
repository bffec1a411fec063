"""The largest logit of each row, and what a greedy row chooses. A logit and its token are one integer, so a maximum
needs no rule for ties, and any order of comparison gives the same."""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-9223372036854775807)  # below every packed logit
LAST = tl.constexpr(0x7FFFFFFF)
INF = tl.constexpr(0x7F800000)  # the bits of infinity


@triton.jit
def pack(x, token):
    """int64 that sorts as (x, -token): NaN is above all others, -0 is 0."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ LAST, bits)
    bits = tl.where(x != x, LAST, bits)
    return (bits.to(tl.int64) << 32) + (token ^ LAST)


@triton.jit
def token_of(packed):
    return ((packed & LAST) ^ LAST).to(tl.int32)


@triton.jit
def value_of(packed):
    bits = (packed >> 32).to(tl.int32)
    return tl.where(bits < 0, bits ^ LAST, bits).to(tl.float32, bitcast=True)


@triton.jit
def possible(packed):
    """Whether the largest logit of a row is finite: `rules.finite`."""
    bits = packed >> 32
    return (bits < INF) & (bits > -INF - 1)  # -inf has the bits of inf and the sign, which `pack` turns into ~INF


@triton.jit(do_not_specialize=["R"])
def best(bests, logits, R, V, stride, CHUNK: tl.constexpr, ROWS: tl.constexpr):
    """bests int64 [R, V / CHUNK]: the largest of each chunk of a row. Grid: R / ROWS, V / CHUNK."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    token = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)[None, :]
    there = (r < R) & (token < V)
    x = tl.load(logits + r.to(tl.int64) * stride + token, mask=there, other=0.0)
    largest = tl.max(tl.where(there, pack(x, token), LOWEST), 1)[:, None]
    tl.store(bests + r * tl.num_programs(1) + tl.program_id(1), largest, mask=r < R)


@triton.jit(do_not_specialize=["R"])
def greedy(out, bests, targets, R, CHUNKS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """out int32 [R, 4]: a row's target or else its largest logit (0 if it has none), and whether that one is finite.

    Grid: R / ROWS. BLOCK: CHUNKS, up to a power of two."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)[None, :]
    there = (r[:, None] < R) & (c < CHUNKS)
    packed = tl.max(tl.load(bests + r[:, None] * CHUNKS + c, mask=there, other=LOWEST), 1)
    finite = possible(packed)
    target = tl.load(targets + r, mask=r < R, other=0)
    token = tl.where(target >= 0, target, tl.where(finite, token_of(packed), 0))
    tl.store(out + 4 * r, token, mask=r < R)
    tl.store(out + 4 * r + 1, finite.to(tl.int32), mask=r < R)
