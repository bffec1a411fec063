"""Q4_K matmuls of 16 to 2,048 tokens by wgmma (w4_many.cu): bits beside w4.py's kernel and a dense matmul, and speed.

python bench/cuda/w4_many.py [bits] [speed]
"""

from __future__ import annotations

import sys

import dense
import torch
from common import COMPILE, DEVICE, GPU, L2_BYTES, error, microseconds, rank, run, same, say
from cubin import Module, build
from w4 import RECORD, call, in_slots, pack, permuted, random_weights, written_out
from w4 import module as few_module

SHAPES = ((1536, 8960), (17920, 1536), (4096, 4096), (28672, 4096), (4096, 14336))  # N, K
CHUNKS = 8
Form = tuple[int, int, int, int]  # tokens, warpgroups, stages, whether one block walks all chunks
FORMS: dict[int, list[Form]] = {  # by tokens
    16: [(16, 2, 4, 0), (16, 1, 4, 0)],
    64: [(64, 2, 2, 0), (64, 4, 2, 0), (64, 2, 3, 1)],
    256: [(64, 2, 2, 0), (64, 2, 3, 1), (128, 2, 2, 1)],
    2048: [(64, 2, 3, 1), (128, 2, 2, 1)],
}


def arranged(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Returns x [T, K] as w4_many.cu reads it, [T/tokens][K/256][16][2][tokens][8]; rows that no token has are NaN."""
    tiles = -(-x.shape[0] // tokens)
    full = torch.full((tiles * tokens, x.shape[1]), float("nan"), dtype=x.dtype, device=x.device)
    full[: x.shape[0]] = x
    return full.view(tiles, tokens, -1, 4, 16, 2, 2).permute(0, 2, 4, 5, 1, 3, 6).contiguous()


def matmul(
    module: Module, form: Form, out: torch.Tensor, x: torch.Tensor, records: torch.Tensor, pdl: bool = False
) -> None:
    """out f32 [T, N]; x from `arranged`."""
    tokens, groups, stages, folded = form
    tiles, blocks = records.shape[:2]
    shared = stages * (512 * tokens + 4 * groups * RECORD + 16)
    grid = (1 if folded else CHUNKS, tiles // (4 * groups), x.shape[0])
    name = "many_" + "_".join(map(str, form))
    shape = out.shape[0], tiles * 16, blocks * 256, CHUNKS
    module.launch(name, grid, 128 * groups + 32, shared, out, x, records, *shape, pdl=pdl, cluster=grid[0])


def module() -> Module:
    forms = dict.fromkeys(form for group in FORMS.values() for form in group)
    return Module(build("w4_many.cu", [f"MANY({', '.join(map(str, form))})" for form in forms]))


def bits() -> None:
    kernels, few = module(), few_module()
    rows, columns = 1536, 8960
    weights = random_weights(rows, columns)
    records, exact, dense_weights = pack(weights), written_out(weights, "F64"), in_slots(written_out(weights, "F16"))
    xs = torch.randn(300, columns, device=DEVICE).half()
    first = torch.empty(1, rows, device=DEVICE)
    call(few, ("F16", 1, 8, 1, 2), first, permuted(xs[:1], 8), records)
    for tokens, form in ((t, form) for t in (16, 64, 256) for form in FORMS[t]):
        tokens -= 3
        out = torch.full((tokens, rows), float("nan"), device=DEVICE)
        matmul(kernels, form, out, arranged(xs[:tokens], form[0]), records)
        found = f"{error(out, xs[:tokens].double() @ exact.T):.1e}"
        say(f"many {form} T {tokens}: error; row 0 equals one token's by w4.cu", f"{found} {same(out[0], first[0])}")
    chunk = -(-(columns // 256) // CHUNKS) * 256
    out = dense.matmul(in_slots(xs[:256]), dense_weights, chunk, dense.Form(False, 128, 128, 8))
    say("dense matmul of the weights written out: the same bits", same(out[0], first[0]))
    made = torch.zeros(rows, columns, dtype=torch.float16, device=DEVICE)
    write_out(kernels, made, records)
    say("weights written out on the device equal torch's", same(made, dense_weights))


def speed() -> None:
    kernels = None if COMPILE else module()
    for rows, columns in SHAPES:
        size = rows * columns * 4.625 / 8
        records = packed(rows, columns, max(2, int(4 * L2_BYTES / size)))
        wide = torch.empty(rows, columns, dtype=torch.float16, device=DEVICE).normal_()
        if kernels:
            us = microseconds(lambda i: write_out(kernels, wide, records[i]), len(records))  # noqa: B023
            rank(f"{rows} x {columns}", [(us, "written out as f16")], size + 2 * rows * columns, 0)
        for tokens, forms in FORMS.items():
            xs = torch.randn(tokens, columns, device=DEVICE).half()
            found = [(time_of(kernels, form, xs, records), f"many {form}") for form in forms if kernels]
            if tokens >= 256:
                found.append((time_dense(xs, wide), "dense matmul of f16 alone"))
            rank(f"{rows} x {columns} T {tokens}", found, size, 2 * rows * columns * tokens)


def packed(rows: int, columns: int, sets: int) -> list[torch.Tensor]:
    if COMPILE:
        return []
    one = pack(random_weights(rows, columns))
    return [one.clone() for _ in range(sets)]


def write_out(module: Module, wide: torch.Tensor, records: torch.Tensor) -> None:
    tiles, blocks = records.shape[:2]
    module.launch("write_out", (tiles * blocks // 4, 1, 1), 128, 0, wide, records, blocks)


def time_of(module: Module, form: Form, xs: torch.Tensor, records: list[torch.Tensor]) -> float:
    x, out = arranged(xs, form[0]), torch.empty(len(xs), records[0].shape[0] * 16, device=DEVICE)
    calls = max(20, len(records)) if len(xs) < 256 else 8
    return microseconds(lambda i: matmul(module, form, out, x, records[i]), len(records), calls)


def time_dense(xs: torch.Tensor, wide: torch.Tensor) -> float:
    form = dense.Form(False, 128, 256 if len(xs) == 2048 else 128, 8, 64, 4)
    out = torch.empty(len(xs), len(wide), dtype=torch.float16, device=DEVICE)
    go, tile = dense.prepare(xs, wide, out, wide.shape[1], form), dense.tile(wide, form)
    return microseconds(lambda i: go(i, tile), calls=8)


if __name__ == "__main__":
    if not GPU and not COMPILE:
        sys.exit("this measurement needs a GPU")
    run({"speed": speed} if COMPILE else {"bits": bits, "speed": speed}, sys.argv[1:])
