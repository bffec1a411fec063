"""Every kernel of a step, by itself: microseconds, and GB/s or TFLOP/s. Launches of all layers stand in one graph, so
each reads its own weights; beside them cuBLAS and torch's attention on the same sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from bench.device import steps
from bench.device.models import SHAPES, TINY, Shape, decoder, random_weights
from bench.device.report import DEVICE, Report, microseconds
from octavo.backends.cuda import tail
from octavo.backends.cuda.backend import CudaBackend
from octavo.backends.cuda.launch import INTERPRETED, Launch
from octavo.config import CacheConfig
from octavo.sampling.arrays import greedy
from octavo.types import Batch

LAYERS = 8  # whose weights together are larger than the L2 cache
CONTEXTS = (1024, 8192)
TOKENS = (1, 16, 64, 256)


def run(report: Report) -> None:
    limits(report)
    for name, shape in (TINY if INTERPRETED else SHAPES).items():
        if report.left < 60:
            report.add(f"{name}: no time left", "left out")
            continue
        measure(report, name, shape._replace(layers=min(LAYERS, shape.layers)))


def limits(report: Report) -> None:
    """What the card can do: copying, bf16 products."""
    size, wide = (1 << 12, 64) if INTERPRETED else (1 << 30, 8192)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    us = microseconds([lambda: target.copy_(source)] * 4)
    report.add("copy, read and written", 2 * size / us / 1e3, "GB/s")
    a, b = (torch.randn(wide, wide, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    us = microseconds([lambda: a @ b] * 4)
    report.add(f"bf16 {wide}^3", 2 * wide**3 / us / 1e6, "TFLOP/s")


def measure(report: Report, name: str, shape: Shape) -> None:
    most = 4 if INTERPRETED else 2048
    sequences, contexts = ((2,), (20,)) if INTERPRETED else (TOKENS, CONTEXTS)
    room = max(steps.blocks(s, c) for s in sequences for c in contexts if s * c <= 1 << 18)
    model = decoder(shape)
    with random_weights():
        backend = CudaBackend(
            model, CacheConfig(room, steps.BLOCK, "bf16"), device=DEVICE.type, max_tokens=most,
            max_seqs=max(sequences), max_context=max(*contexts, most), graphs=False,
        )  # fmt: skip
    backend.pool.data.normal_()
    for count in sequences:
        for context in contexts:
            if count * context > 1 << 18:
                continue
            batch = steps.decoding(count, context, shape.vocab)
            keys = 2 * count * context * shape.kv_heads * shape.head_dim * 2  # bytes
            by_kernel(report, f"{name}, {count} x {context} keys", backend, batch, shape, keys, context > contexts[0])
            attention_of_torch(report, f"{name}, {count} x {context} keys", shape, count, context)
        choosing(report, name, backend, count)
    batch = steps.prompt(most, shape.vocab)
    by_kernel(report, f"{name}, prompt of {most}", backend, batch, shape, 0, False)
    attention_of_torch(report, f"{name}, prompt of {most}", shape, 1, most, whole=True)
    for tokens in (*sequences, most):
        matmuls_of_cublas(report, name, shape, tokens)
    backend.close()


def by_kernel(
    report: Report, name: str, backend: CudaBackend, batch: Batch, shape: Shape, keys: int, attention_only: bool
) -> None:
    """keys: bytes that attention reads, 0 for a prompt."""
    tokens, rows = len(batch.token_ids), len(batch.logit_rows)
    groups: dict[str, list[Launch]] = defaultdict(list)
    for launch in launches(backend, batch):
        groups[launch.title].append(launch)
    total = 0.0
    for kernel, found in groups.items():
        attends = found[0].name in ("attend", "add_parts")
        if attention_only and not attends:
            continue
        us = microseconds(found)
        total += us * len(found)
        amount, unit = work(found[0], tokens if len(found) > 1 else rows)
        if found[0].name == "attend" and not keys and found[0].constants["WHOLE"]:
            amount, unit = 2 * 2 * shape.heads * shape.head_dim * tokens * (tokens + 1) / 2 / 1e6, "TFLOP/s"
        elif found[0].name == "attend" and keys and not found[0].constants["WHOLE"]:
            amount, unit = keys / 1e3, "GB/s"
        rate = f"us, {amount / us:.0f} {unit}" if unit else "us"
        report.add(f"{name}: {kernel}", us, rate)
    report.add(f"{name}: all launches of a layer", total / max(1, shape.layers), "us")


def choosing(report: Report, name: str, backend: CudaBackend, rows: int) -> None:
    """Sampling by top-k and top-p, after the logits of the step before."""
    sampling = msgspec.structs.replace(
        greedy(rows), temperature=np.full(rows, 0.8, np.float32), top_k=np.full(rows, 40, np.int32),
        top_p=np.full(rows, 0.9, np.float32), plain_greedy=False,
    )  # fmt: skip
    chosen = backend._choices(tail.choices(sampling, np.arange(rows, dtype=np.int32), 0))
    out = backend.steps.fields(rows, rows).out
    calls = backend.tail.choose(out, backend._pass.logits, chosen, rows)
    report.add(f"{name}, {rows} rows: sampling by top-k and top-p", microseconds(calls) * len(calls), "us")


def launches(backend: CudaBackend, batch: Batch) -> list[Launch]:
    """Of a greedy step, with this batch in the buffers that they read."""
    backend.run(batch)
    rows = len(batch.logit_rows)
    return backend._step(backend.steps.fields(len(batch.token_ids), rows), rows)


def work(launch: Launch, tokens: int) -> tuple[float, str]:
    """A matmul's (10^3 bytes of weights, "GB/s"), or with many tokens (10^6 operations, "TFLOP/s"): each a rate when
    divided by microseconds."""
    if launch.name == "quantised":
        rows, columns = launch.arguments[7:9]
        size = sum(part.numel() * part.element_size() for part in launch.arguments[2] if part is not None)
    elif launch.name == "dense":
        rows, columns = launch.arguments[6:8]
        size = launch.arguments[2].base.numel() * launch.arguments[2].base.element_size()
    else:
        return 0.0, ""
    return (2 * rows * columns * tokens / 1e6, "TFLOP/s") if tokens >= 256 else (size / 1e3, "GB/s")


def matmuls_of_cublas(report: Report, name: str, shape: Shape, tokens: int) -> None:
    sizes = {
        "q k v": ((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.hidden),
        "o": (shape.hidden, shape.heads * shape.head_dim),
        "gate, up": (2 * shape.ffn, shape.hidden),
        "down": (shape.hidden, shape.ffn),
    }
    for which, (rows, columns) in sizes.items():
        sets = 2 if INTERPRETED else max(2, (200 << 20) // (rows * columns * 2) + 1)
        x = torch.randn(tokens, columns, device=DEVICE, dtype=torch.bfloat16)
        weights = [torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16) for _ in range(sets)]
        us = microseconds([_product(x, w) for w in weights])
        amount, unit = (
            (2 * rows * columns * tokens / 1e6, "TFLOP/s") if tokens >= 256 else (2 * rows * columns / 1e3, "GB/s")
        )
        title = f"{name}, {tokens} tokens: cuBLAS bf16 {which} {rows} x {columns}"
        report.add(title, us, f"us, {amount / us:.0f} {unit}")


def _product(x: Any, w: Any) -> Callable[[], Any]:
    return lambda: x @ w.T


def attention_of_torch(
    report: Report, name: str, shape: Shape, sequences: int, context: int, whole: bool = False
) -> None:
    """Its keys lie one after the other, not in pages. whole: a prompt; else one query a sequence."""
    queries, sets = (context, 1) if whole else (1, 2)
    size = (sequences, shape.kv_heads, context, shape.head_dim)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)

    q = random(sequences, shape.heads, queries, shape.head_dim)
    calls: Sequence[Callable[[], Any]] = [_attention(q, random(*size), random(*size), whole) for _ in range(sets)]
    us = microseconds(calls)
    if whole:
        rate = 2 * 2 * shape.heads * shape.head_dim * context * (context + 1) / 2 / us / 1e6
        report.add(f"{name}: torch's attention", us, f"us, {rate:.0f} TFLOP/s")
    else:
        keys = 2 * sequences * context * shape.kv_heads * shape.head_dim * 2
        report.add(f"{name}: torch's attention", us, f"us, {keys / us / 1e3:.0f} GB/s")


def _attention(q: Any, k: Any, v: Any, causal: bool) -> Callable[[], Any]:
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=causal, enable_gqa=True)
