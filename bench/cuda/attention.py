"""Paged attention with one order of sums for prefill and decode: latency, GB/s, TFLOP/s, bits.

    python bench/cuda/attention.py [bits] [decode] [prefill]

The kernels and their rule are in attention_kernels.py; what was found is in docs/cuda.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from attention_kernels import add_all_parts, attend
from common import COMPILE, DEVICE, GPU, INTERPRET, error, launch, microseconds, rank, run, same, say

OPERAND = torch.float16 if INTERPRET else torch.bfloat16
PAGE = 16
LOG2E = 1.4426950408889634
Cache = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # keys, values [blocks, heads, PAGE, dim], tables


class Form(NamedTuple):
    """Rows of a tile and its warps; keys of a step and of a split; pipeline stages; programmatic dependent launch."""

    rows: int
    warps: int
    step: int
    split: int
    stages: int
    pdl: bool = False


PREFILL = [
    Form(128, 8, 128, 128, 2), Form(128, 8, 128, 128, 3), Form(64, 4, 128, 128, 1), Form(128, 8, 128, 256, 2),
    Form(128, 8, 64, 64, 2), Form(64, 4, 64, 64, 2), Form(64, 4, 64, 64, 1), Form(64, 4, 64, 128, 2),
    Form(64, 4, 64, 256, 2), Form(128, 8, 64, 256, 3),
]  # fmt: skip
DECODE = [
    Form(64, 4, 128, 128, 1), Form(64, 4, 128, 128, 1, True), Form(64, 8, 128, 128, 1), Form(64, 4, 64, 64, 1),
    Form(16, 1, 64, 64, 1), Form(64, 4, 128, 256, 2), Form(64, 4, 64, 256, 2),
]  # fmt: skip


def cache(sequences: int, context: int, kv_heads: int, dim: int) -> Cache:
    blocks = sequences * triton.cdiv(context, PAGE)
    k, v = (torch.randn(blocks, kv_heads, PAGE, dim, device=DEVICE, dtype=OPERAND) for _ in range(2))
    return k, v, torch.randperm(blocks, device=DEVICE).int().view(sequences, -1)


def prepare(
    form: Form, q: torch.Tensor, kv: Cache, positions: torch.Tensor, fold: bool
) -> tuple[torch.Tensor, Callable[[int], None]]:
    """q [T, heads, D], the sequences' rows in order. Returns out and a function that computes it."""
    k, v, tables = kv
    (tokens, heads, dim), kv_heads = q.shape, k.shape[1]
    group, context = heads // kv_heads, tables.shape[1] * PAGE
    rows = form.rows // group if fold else 1
    tiles = triton.cdiv(tokens // tables.shape[0], rows)
    splits = triton.next_power_of_2(triton.cdiv(context, form.split))
    out = torch.full((tokens, heads, dim), float("nan"), device=DEVICE, dtype=torch.float32)
    acc, mz = (torch.empty(tokens if not fold else 1, heads, splits, size, device=DEVICE) for size in (dim, 2))
    grid = (tiles * tables.shape[0], kv_heads, 1 if fold else triton.cdiv(context, form.split))
    common = dict(G=group, KH=kv_heads, D=dim, SPLIT=form.split, SPLITS=splits, PDL=form.pdl)
    options = dict(enable_fp_fusion=False, launch_pdl=form.pdl)
    scale = dim**-0.5 * LOG2E

    def go(_index: int) -> None:
        launch(
            attend, grid, out, acc, mz, q, k, v, tables, positions, tokens, tables.shape[1], tiles, scale, PAGE=PAGE,
            M=form.rows, ROWS=rows, STEP=form.step, FOLD=fold, STAGES=form.stages, num_warps=form.warps,
            num_stages=form.stages, **common, **options,
        )  # fmt: skip
        if not fold:
            launch(add_all_parts, (tokens, heads), out, acc, mz, positions, num_warps=4, **common, **options)

    return out, go


def exact(q: torch.Tensor, kv: Cache) -> torch.Tensor:
    """Attention of one row q [heads, D] over the whole of one sequence, in float64."""
    k, v, tables = kv
    group = len(q) // k.shape[1]
    pages = tables[0].long()
    keys, values = (t[pages].transpose(1, 2).flatten(0, 1).double().repeat_interleave(group, 1) for t in (k, v))
    weights = (torch.einsum("hd,khd->hk", q.double(), keys) * q.shape[1] ** -0.5).softmax(-1)
    return torch.einsum("hk,khd->hd", weights, values)


def bits() -> None:
    """The last row of a prompt by prefill's forms and by decode's."""
    kv_heads, group, dim = 2, 4, 32 if INTERPRET else 128
    context, tokens = (304, 20) if INTERPRET else (1504, 132)
    kv = cache(1, context, kv_heads, dim)
    q = torch.randn(tokens, kv_heads * group, dim, device=DEVICE).to(OPERAND)
    positions = torch.arange(context - tokens, context, device=DEVICE, dtype=torch.int32)
    for split, step in ((64, 64), (128, 128), (256, 128), (256, 64)):
        rows = {}
        for form in PREFILL:
            if (form.split, form.step) == (split, step):
                out, go = prepare(form, q, kv, positions, fold=True)
                go(0)
                rows[f"prefill {form}"] = out[-1]
        for m, warps in ((64, 4), (64, 8), (16, 1), (16, 4)):
            if (m, warps, step) == (16, 1, 128):
                continue  # spills
            form = Form(m, warps, step, split, 1)
            out, go = prepare(form, q[-1:], kv, positions[-1:], fold=False)
            go(0)
            rows[f"decode {form}"] = out[0]
        first = next(iter(rows))
        say(f"{first}: error", f"{error(rows[first], exact(q[-1], kv)):.1e}")
        for name in list(rows)[1:]:
            say(f"{name}: same bits", same(rows[name], rows[first]))


def decode() -> None:
    for kv_heads, group in ((2, 6), (8, 4)):
        for sequences, context in ((1, 1024), (1, 8192), (16, 1024), (64, 1024)):
            kv = cache(sequences, context, kv_heads, 128)
            q = torch.randn(sequences, kv_heads * group, 128, device=DEVICE).to(OPERAND)
            positions = torch.full((sequences,), context - 1, dtype=torch.int32, device=DEVICE)
            found = [(microseconds(prepare(form, q, kv, positions, fold=False)[1]), str(form)) for form in DECODE]
            rank(f"decode {kv_heads} kv heads S {sequences} context {context}", found, 4 * kv[0].numel(), 0)


def prefill() -> None:
    n = 4096
    for kv_heads, group in ((2, 6), (8, 4)):
        kv = cache(1, n, kv_heads, 128)
        q = torch.randn(n, kv_heads * group, 128, device=DEVICE).to(OPERAND)
        positions = torch.arange(n, dtype=torch.int32, device=DEVICE)
        found = [(microseconds(prepare(form, q, kv, positions, fold=True)[1], calls=3), str(form)) for form in PREFILL]
        found.append((time_sdpa(q, kv_heads), "torch SDPA"))
        rank(f"prefill 4096, {kv_heads * group} heads of {kv_heads} kv heads", found, 0, 2 * n * n * q[0].numel())


def time_sdpa(q: torch.Tensor, kv_heads: int) -> float:
    n, _, dim = q.shape
    qq = q.transpose(0, 1)[None].contiguous()
    kk = torch.randn(1, kv_heads, n, dim, device=DEVICE, dtype=OPERAND)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return microseconds(lambda i: sdpa(qq, kk, kk, is_causal=True, enable_gqa=True), calls=3)


if __name__ == "__main__":
    if not GPU and not COMPILE and not INTERPRET:
        sys.exit("this measurement needs a GPU")
    run({"bits": bits} if INTERPRET else {"bits": bits, "decode": decode, "prefill": prefill}, sys.argv[1:])
