"""Copies within the KV pool."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def move(pool, pairs, planes, count, block_stride, W, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """pairs [count, 2]: (source, target) slots, PAGE a block, copied in this order: a source may be an earlier target.

    A program has one plane, which begins at planes[program] in every block and holds W values for each of PAGE slots.
    The same thread reads and writes a value of every slot, so no barrier is needed between two copies.
    """
    at = tl.load(planes + tl.program_id(0)).to(tl.int64)
    c = tl.arange(0, BLOCK)
    for i in range(count):
        source = tl.load(pairs + 2 * i)
        target = tl.load(pairs + 2 * i + 1)
        read = (source // PAGE).to(tl.int64) * block_stride + at + source % PAGE * W + c
        write = (target // PAGE).to(tl.int64) * block_stride + at + target % PAGE * W + c
        tl.store(pool + write, tl.load(pool + read, mask=c < W), mask=c < W)
