"""Q4_K matmuls of up to 64 tokens in CUDA C++ (w4.cu): GB/s by arithmetic, chunks of K, rows a block and tokens.

    python bench/cuda/w4.py [bits] [speed]

`bits` compares with float64 and asks which kernels have the same bits: mma.sync here, wgmma in Triton with the weights
on the left or on the right (dense.py, on the same weights written out). `speed` times the variants; weights are read
from memory, not from the L2 cache. What was found is in docs/cuda.md.
"""

from __future__ import annotations

import sys

import torch
from common import COMPILE, DEVICE, GPU, L2_BYTES, error, microseconds, rank, run, same, say
from cubin import Module, build
from dense import Form, matmul

Variant = tuple[str, int, int, int, int]
OPERANDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.bfloat16}
RECORD = 2368  # bytes of 16 rows and 256 columns: 4.625 bits a weight
SHAPES = ((2048, 1536), (1536, 8960), (17920, 1536), (4096, 4096), (28672, 4096), (4096, 14336))  # N, K
# arithmetic, tokens / 8, chunks of K (warps along K), tiles of 16 rows a block, records ahead
ONE = [("F16", 1, *v) for v in ((8, 1, 2), (8, 1, 3), (16, 1, 1), (16, 1, 2), (4, 1, 4), (1, 8, 4))]
ONE += [("BF16", 1, 8, 1, 3), ("F32", 1, 8, 1, 3)]
SIXTEEN = [("F16", 2, *v) for v in ((8, 1, 2), (8, 1, 3), (8, 2, 2), (4, 4, 3), (16, 1, 1))] + [("F32", 2, 8, 1, 2)]
SIXTY = [("F16", 8, 8, 1, 2), ("F16", 8, 4, 4, 2)]
# codes [N, K], scales and minima [N, K/32, 2], d and dmin [N, K/256, 2]
Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_weights(rows: int, columns: int) -> Weights:
    codes = torch.randint(0, 16, (rows, columns), dtype=torch.uint8, device=DEVICE)
    scales = torch.randint(0, 64, (rows, columns // 32, 2), dtype=torch.uint8, device=DEVICE)
    supers = torch.rand(rows, columns // 256, 2, device=DEVICE) * 0.004 + 0.0005
    supers[:, :, 1] *= 15
    return codes, scales, supers.half()


def pack(weights: Weights) -> torch.Tensor:
    """Returns the records of w4.cu, uint8 [N/16, K/256, RECORD]."""
    codes, scales, supers = weights
    rows, columns = codes.shape
    tiles, blocks = rows // 16, columns // 256
    c = codes.view(tiles, 2, 8, blocks, 4, 16, 2, 2).to(torch.int64)  # h g block q step e/2 e%2
    shift = torch.arange(2, device=codes.device)
    bits = 4 * (2 * shift[:, None, None] + shift[None, :, None]) + 16 * shift[None, None, :]  # e/2 h e%2
    words = (c.permute(0, 3, 5, 2, 4, 6, 1, 7) << bits).sum((-1, -2, -3))  # tile block step g q
    words = words.view(tiles, blocks, 4, 4, 32).transpose(3, 4).to(torch.uint32).contiguous()
    meta = scales.view(tiles, 2, 8, blocks, 4, 2, 2).permute(0, 3, 2, 4, 1, 5, 6).contiguous()
    supers = supers.view(tiles, 2, 8, blocks, 2).permute(0, 3, 2, 1, 4).contiguous()
    return torch.cat([t.view(torch.uint8).view(tiles, blocks, -1) for t in (words, meta, supers)], 2)


def written_out(weights: Weights, mode: str) -> torch.Tensor:
    """Returns the weights [N, K] as the kernel's arithmetic rounds them."""
    codes, scales, supers = weights
    factors = (scales.double() * supers.double().repeat_interleave(8, 1)).repeat_interleave(32, 1)
    if mode == "F64":
        return codes.double() * factors[:, :, 0] - factors[:, :, 1]
    operand = torch.float16 if mode == "F16" else torch.bfloat16
    if mode == "F32":
        scale = 16 * factors[:, :, 0]
        offset = (-factors[:, :, 1] - scale).float().double()
        return ((1 + codes.double() / 16) * scale + offset).float().to(operand)
    factors = factors.to(operand).double()
    return (codes.double() * factors[:, :, 0] - factors[:, :, 1]).to(operand)


def permuted(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Returns x [T, K] as the kernel reads it: [K/256][8][tokens][4][8]; rows that no token has are NaN."""
    full = torch.full((tokens, x.shape[1]), float("nan"), dtype=x.dtype, device=x.device)
    full[: x.shape[0]] = x
    return full.view(tokens, -1, 4, 8, 8).permute(1, 3, 0, 2, 4).contiguous()


def in_slots(w: torch.Tensor) -> torch.Tensor:
    """Returns w [., K] with its columns in the order of the tensor cores' slots: step, e/2, q, e%2."""
    return w.view(w.shape[0], -1, 4, 16, 2, 2).permute(0, 1, 3, 4, 2, 5).reshape(w.shape).contiguous()


def name(variant: Variant) -> str:
    return "w4_" + "_".join(map(str, variant))


def call(
    module: Module | None,
    variant: Variant,
    out: torch.Tensor,
    x: torch.Tensor,
    records: torch.Tensor,
    pdl: bool = False,
) -> None:
    """out f32 [T, N]; x from `permuted`."""
    if module is None:  # compiling only
        return
    _mode, _tokens, chunks, rows, stages = variant
    warps, tiles, blocks = chunks * rows, records.shape[0], records.shape[1]
    shared = max(warps * stages * (RECORD + 8), warps * variant[1] * 512 if chunks > 1 else 0)
    shape = out.shape[0], tiles * 16, blocks * 256
    module.launch(name(variant), (tiles // rows, 1, 1), 32 * warps, shared, out, x, records, *shape, pdl=pdl)


def module() -> Module:
    variants = [f"KERNEL({', '.join(map(str, v))})" for v in ONE + SIXTEEN + SIXTY]
    cubin = build("w4.cu", variants)
    return Module(cubin)


def bits() -> None:
    kernels = None if COMPILE else module()
    weights = random_weights(1536, 8960)
    records, x = pack(weights), torch.randn(64, 8960, device=DEVICE)
    for variant in ONE + SIXTEEN + SIXTY:
        mode, eights, *_ = variant
        xs = x[: 8 * eights - 3].to(OPERANDS[mode])
        out = torch.full((len(xs), 1536), float("nan"), device=DEVICE)
        first = torch.full((1, 1536), float("nan"), device=DEVICE)
        call(kernels, variant, out, permuted(xs, 8 * eights), records)
        call(kernels, variant, first, permuted(xs[:1], 8 * eights), records)
        exact, own = (xs.double() @ written_out(weights, m).double().T for m in ("F64", mode))
        found = f"{error(out, exact):.1e}, of its own weights {error(out, own):.1e}, {same(first[0], out[0])}"
        say(f"{name(variant)}: error; row 0 alone has the same bits", found)
    for mode in ("F16", "F32"):
        forms(kernels, mode, weights, records, x[:16].to(OPERANDS[mode]))


def forms(kernels: Module | None, mode: str, weights: Weights, records: torch.Tensor, x: torch.Tensor) -> None:
    """The same matmul by mma.sync in w4.cu and by Triton on the weights written out."""
    chunk = 5 * 256  # K 8960 is 35 superblocks: 8 chunks of 5
    out = torch.empty(16, 1536, device=DEVICE)
    call(kernels, (mode, 2, 8, 1, 2), out, permuted(x, 16), records)
    dense, slots = in_slots(written_out(weights, mode)), in_slots(x)
    for left, bn, bm, warps in ((True, 64, 16, 4), (True, 32, 16, 2), (False, 64, 64, 4), (False, 128, 128, 8)):
        made = matmul(slots, dense, chunk, Form(left, bn, bm, warps))
        kind = "wgmma" if bn >= 64 else "mma.sync"
        say(f"{mode}: w4.cu == Triton, {kind}, weights left {left}, {bn} rows, {bm} tokens", same(made, out))


def speed() -> None:
    kernels = module()
    for rows, columns in SHAPES:
        size = rows * columns * 4.625 / 8
        one = pack(random_weights(rows, columns))
        records = [one.clone() for _ in range(max(2, int(4 * L2_BYTES / size)))]
        for tokens, group in ((1, ONE), (16, SIXTEEN), (64, SIXTY)):
            found = [(time_of(kernels, variant, tokens, records), name(variant)) for variant in group]
            rank(f"{rows} x {columns} T {tokens}", found, size, 2 * rows * columns * tokens)


def time_of(kernels: Module, variant: Variant, tokens: int, records: list[torch.Tensor]) -> float:
    rows, columns = records[0].shape[0] * 16, records[0].shape[1] * 256
    x = permuted(torch.randn(tokens, columns, device=DEVICE).to(OPERANDS[variant[0]]), 8 * variant[1])
    out = torch.empty(tokens, rows, device=DEVICE)
    sets = len(records)
    return microseconds(lambda i: call(kernels, variant, out, x, records[i]), sets, calls=max(20, sets))


if __name__ == "__main__":
    if not GPU and not COMPILE:
        sys.exit("this measurement needs a GPU")
    run({"bits": bits} if COMPILE else {"bits": bits, "speed": speed}, sys.argv[1:])
