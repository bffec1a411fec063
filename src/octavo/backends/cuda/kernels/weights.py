"""Dequantising in registers: 32 columns of some rows of a weight, for every encoding (encodings.py has the table)."""

import triton
import triton.language as tl


@triton.jit
def plane(codes, at, block, BITS: tl.constexpr):
    """[N, 32] int32: one plane's part of the codes: columns 32 block to 32 block + 31. at [N, 1]: its rows."""
    PER: tl.constexpr = 8 // BITS
    byte = tl.load(codes + at + block // PER * 32 + tl.arange(0, 32)[None, :]).to(tl.int32)
    if BITS == 8:
        return byte
    return (byte >> block % PER * BITS) & ((1 << BITS) - 1)


@triton.jit
def factor(outer, inner, rows, k, COLUMNS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """[N, 1] or, where 32 columns are several groups, [N, 32] f32: the product of both factors at columns k."""
    value = tl.load(outer + rows * (COLUMNS // BLOCK) + k // BLOCK).to(tl.float32)
    if inner is not None:
        value *= tl.load(inner + rows * (COLUMNS // GROUP) + k // GROUP).to(tl.float32)
    return value


@triton.jit
def decode(w, levels, rows, block, COLUMNS: tl.constexpr, FORMAT: tl.constexpr):
    """[N, 32] f32: the values of columns 32 block to 32 block + 31 of `rows` [N, 1] int64.

    w: encodings.Arrays as tensors. COLUMNS: K, padded. FORMAT: encodings.Encoding. A scale times a code is exact in f32
    (17 and 8 bits at most; I8's rounds once), so only adding the offset rounds, fused or not.
    """
    LOW: tl.constexpr = FORMAT[0][0]
    HIGH: tl.constexpr = FORMAT[0][1]
    GROUP: tl.constexpr = FORMAT[1]
    BLOCK: tl.constexpr = FORMAT[2]
    at = rows * (COLUMNS * (LOW + HIGH) // 8)
    code = plane(w.codes, at, block, LOW)
    if HIGH > 0:
        code |= plane(w.codes, at + COLUMNS * LOW // 8, block, HIGH) << LOW
    if FORMAT[4]:
        value = tl.load(levels + code)
    else:
        value = (code - FORMAT[3]).to(tl.float32)
    if GROUP < 32:
        k = block * 32 + tl.arange(0, 32)[None, :]
    else:
        k = block * 32
    value *= factor(w.outer, w.inner, rows, k, COLUMNS, GROUP, BLOCK)
    if w.offset_outer is not None:
        value += factor(w.offset_outer, w.offset_inner, rows, k, COLUMNS, GROUP, BLOCK)
    return value
