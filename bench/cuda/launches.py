"""What a launch costs in a CUDA graph, and what programmatic dependent launch (PDL) gives.

    python bench/cuda/launches.py [chain] [layer]

`chain`: tiny kernels, each of which reads what the one before it wrote. `layer`: the launches of one decoder layer for
one token, with Q4_K weights (w4.cu) and attention over 1,024 keys. With PDL a kernel starts while the one before it
runs; it waits (`gdc_wait`) before it reads what that one wrote. The matmuls ask for their first weights before that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from attention import Form, cache
from attention import prepare as prepare_attention
from common import COMPILE, DEVICE, GPU, L2_BYTES, launch, microseconds, run, say
from cubin import Module
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from w4 import call, module, pack, random_weights

VARIANT = ("F16", 1, 8, 1, 2)  # of w4.cu
SHAPES = {"1.5B": (1536, 2, 6, 8960), "8B": (4096, 8, 4, 14336)}  # hidden, kv heads, heads a kv head, inner
Call = Callable[[int], None]


@triton.jit
def tiny(out, x, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at) + 1.0)


@triton.jit
def norm(out, residual, x, gain, N: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """residual += x; out = f16(norm(residual) * gain)."""
    at = tl.arange(0, BLOCK)
    scale = tl.load(gain + at, mask=at < N, other=0.0)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    r = tl.load(residual + at, mask=at < N, other=0.0) + tl.load(x + at, mask=at < N, other=0.0)
    tl.store(residual + at, r, mask=at < N)
    tl.store(out + at, (r * tl.rsqrt(tl.sum(r * r, 0) / N + 1e-6) * scale).to(tl.float16), mask=at < N)


@triton.jit
def activate(out, x, N: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out = f16(silu(x[: N]) * x[N :]); it also stands for the heads' norms and rotation."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + at, mask=at < N, other=0.0)
    up = tl.load(x + N + at, mask=at < N, other=0.0)
    tl.store(out + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=at < N)


def chain() -> None:
    x = torch.zeros(132 * 1024, device=DEVICE)
    y = torch.zeros_like(x)

    def time_of(programs: int, pdl: bool) -> float:
        def step(i: int) -> None:
            launch(tiny, (programs,), *((y, x) if i % 2 else (x, y)), BLOCK=1024, PDL=pdl, num_warps=4, launch_pdl=pdl)

        return microseconds(step, 2, calls=200)

    for programs in (1, 132):
        for pdl in (False, True):
            say(f"a tiny kernel after another, {programs} programs, PDL {pdl}", f"{time_of(programs, pdl):.2f} us")


class Layer:
    """One layer's buffers, and enough copies of its weights that they come from memory."""

    def __init__(self, hidden: int, kv_heads: int, group: int, inner: int) -> None:
        self.hidden, self.inner, self.heads = hidden, inner, kv_heads * group
        width = self.heads * 128
        shapes = {"qkv": (kv_heads * (group + 2) * 128, hidden), "o": (hidden, width)}
        shapes |= {"gate_up": (2 * inner, hidden), "down": (hidden, inner)}
        self.bytes = sum(n * k for n, k in shapes.values()) * 4.625 / 8
        made = {name: pack(random_weights(*shape)) for name, shape in shapes.items()} if GPU else {}
        copies = max(2, int(4 * L2_BYTES / self.bytes))
        self.weights = [{name: records.clone() for name, records in made.items()} for _ in range(copies)]
        self.outs = {name: torch.zeros(1, n, device=DEVICE) for name, (n, _) in shapes.items()}
        self.residual, self.gain = torch.randn(hidden, device=DEVICE), torch.ones(hidden, device=DEVICE)
        self.x = torch.zeros(max(inner, hidden) * 8, dtype=torch.float16, device=DEVICE)
        self.kv = cache(1, 1024, kv_heads, 128)
        self.q = torch.randn(1, self.heads, 128, device=DEVICE).bfloat16()
        self.positions = torch.full((1,), 1023, dtype=torch.int32, device=DEVICE)

    def launches(self, kernels: Module | None, pdl: bool) -> dict[str, Call]:
        """Name -> a function that launches, for the i-th copy of the weights; attention is two launches."""
        options: dict[str, Any] = dict(PDL=pdl, launch_pdl=pdl)
        block = triton.next_power_of_2(self.hidden)

        def matmul(name: str) -> Call:
            return lambda i: call(kernels, VARIANT, self.outs[name], self.x, self.weights[i].get(name), pdl)

        def normed(name: str) -> Call:
            buffers = self.x, self.residual, self.outs[name], self.gain
            return lambda i: launch(norm, (1,), *buffers, N=self.hidden, BLOCK=block, num_warps=8, **options)

        def act(n: int, name: str) -> Call:
            grid = (triton.cdiv(n, 512),)
            return lambda i: launch(activate, grid, self.x, self.outs[name], N=n, BLOCK=512, num_warps=4, **options)

        _, attend = prepare_attention(Form(64, 4, 128, 128, 1, pdl), self.q, self.kv, self.positions, fold=False)
        return {
            "norm": normed("down"), "qkv": matmul("qkv"), "heads": act(self.heads * 64, "qkv"), "attend": attend,
            "o": matmul("o"), "norm 2": normed("o"), "gate_up": matmul("gate_up"), "act": act(self.inner, "gate_up"),
            "down": matmul("down"),
        }  # fmt: skip


def layer() -> None:
    kernels = module() if GPU else None
    for label, shape in SHAPES.items():
        made = Layer(*shape)
        copies = len(made.weights)
        for pdl in (False, True):
            us = time_whole(made.launches(kernels, pdl), copies)
            say(
                f"{label}: a layer of 10 launches, PDL {pdl}",
                f"{us:.1f} us, {made.bytes / us / 1e3:.0f} GB/s of weights",
            )
        alone = {
            name: microseconds(part, copies, calls=max(copies, 20))
            for name, part in made.launches(kernels, False).items()
        }
        parts = " ".join(f"{name} {us:.1f}" for name, us in alone.items())
        say(f"{label}: launches alone", f"{parts} = {sum(alone.values()):.1f} us")


def time_whole(launches: dict[str, Call], copies: int) -> float:
    def whole(i: int) -> None:
        for part in launches.values():
            part(i)

    return microseconds(whole, copies, calls=copies)


if __name__ == "__main__":
    if not GPU and not COMPILE:
        sys.exit("this measurement needs a GPU")
    run({"chain": chain, "layer": layer}, sys.argv[1:])
