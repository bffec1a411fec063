"""RMS norm, gated activations, sums. Each program has whole rows, so a row's bits do not depend on its neighbours."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T"])
def norm(
    out, x, weight, eps, T, x_stride, out_stride, W: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    INTO: tl.constexpr,
):  # fmt: skip
    """out [T, W] = x / sqrt(mean(x^2) + eps) * weight, x in f32; INTO: added to what `out` holds."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, BLOCK)[None, :]
    there = (t < T) & (c < W)
    value = tl.load(x + t.to(tl.int64) * x_stride + c, mask=there, other=0.0)
    mean = tl.sum(value * value, 1)[:, None] / W
    value = value / tl.sqrt(mean + eps) * tl.load(weight + c, mask=c < W, other=0.0)
    to = out + t.to(tl.int64) * out_stride + c
    if INTO:
        value += tl.load(to, mask=there, other=0.0)
    tl.store(to, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2 |x|), which cannot overflow."""
    e = tl.exp(-2.0 * tl.abs(x))
    value = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -value, value)


@triton.jit(do_not_specialize=["T"])
def gated(
    out, gate, up, factor, T, W, gate_stride, up_stride, out_stride, SILU: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """out [T, W] = factor * activation(gate) * up. SILU, else GELU by its tanh approximation (1606.08415)."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = (t < T) & (c < W)
    row = t.to(tl.int64)
    x = tl.load(gate + row * gate_stride + c, mask=there, other=0.0)
    if SILU:
        value = x / (1.0 + tl.exp(-x))
    else:
        value = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    value = value * tl.load(up + row * up_stride + c, mask=there, other=0.0) * factor
    tl.store(out + row * out_stride + c, value.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["T"])
def add(y, x, T, W, y_stride, x_stride, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """y += x, both f32 [T, W]."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = (t < T) & (c < W)
    to = y + t.to(tl.int64) * y_stride + c
    value = tl.load(x + t.to(tl.int64) * x_stride + c, mask=there, other=0.0) + tl.load(to, mask=there, other=0.0)
    tl.store(to, value, mask=there)


@triton.jit(do_not_specialize=["T"])
def soft_cap(x, cap, T, W, stride, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """x = cap * tanh(x / cap), f32 [T, W]."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = (t < T) & (c < W)
    at = x + t.to(tl.int64) * stride + c
    tl.store(at, tanh(tl.load(at, mask=there, other=0.0) / cap) * cap, mask=there)
