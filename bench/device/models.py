"""Models of real shapes with random weights. Their matrices are made on the device: no file of 16 GB is read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from octavo.backends.cuda import layout
from octavo.backends.cuda.encodings import DENSE, arrange
from octavo.backends.cuda.values import aligned
from octavo.ir import Attention, Model, Ops, Rope, Tensor, Weight
from octavo.types import F32
from octavo.weights.formats import FORMATS, tensor_bytes
from tests.quantize import quantize

SAMPLE = 16  # rows of a quantised matrix that differ


class Shape(NamedTuple):
    """type: of the matrices; head: of the embedding, which is the head too. ffn: the width of gate and up."""

    type: str
    head: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    bias: bool = False


SHAPES = {
    "1.5B Q4_K": Shape("Q4_K", "Q6_K", 28, 1536, 12, 2, 128, 8960, 151936, bias=True),
    "8B bf16": Shape("BF16", "BF16", 32, 4096, 32, 8, 128, 14336, 128256),
    "8B int4": Shape("U4_128", "I8_128", 32, 4096, 32, 8, 128, 14336, 128256),
}
# For --dry-run: the same kinds, so small that Triton's interpreter runs them.
TINY = {
    "1.5B Q4_K": Shape("Q4_K", "Q6_K", 1, 256, 4, 2, 64, 256, 64, bias=True),
    "8B bf16": Shape("BF16", "BF16", 1, 48, 4, 2, 16, 64, 64),
    "8B int4": Shape("U4_128", "I8_128", 1, 128, 4, 2, 32, 128, 64),
}

ONE = {"8B bf16": TINY["8B bf16"]}  # for sections that run whole engines


def decoder(shape: Shape, context: int = 8192) -> Model:
    """A Llama of this shape. Only its vectors have content; `random_weights` makes the matrices."""
    spec = Attention(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim**-0.5)
    rope = Rope((500_000.0 ** -(np.arange(0, 1, 2 / shape.head_dim))).astype(np.float32))
    weights: dict[str, Weight] = {}

    def matrix(name: str, rows: int, columns: int, type: str = shape.type) -> Weight:
        if name not in weights:
            size = tensor_bytes(FORMATS[type], (rows, columns))
            weights[name] = Weight(name, (rows, columns), type, np.zeros(size, np.uint8))  # never touched: no memory
        return weights[name]

    def vector(name: str, size: int, mean: float) -> Weight:
        if name not in weights:
            values = np.random.default_rng(size).normal(mean, 0.1, size).astype(np.float32)
            weights[name] = Weight(name, (size,), "F32", values.view(np.uint8))
        return weights[name]

    sizes = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}

    def forward(ops: Ops, layers: Sequence[int] = range(shape.layers)) -> Tensor:
        table = matrix("embed", shape.vocab, shape.hidden, shape.head)
        x = ops.embed(table)
        for i in layers:
            h = ops.rms_norm(x, vector(f"{i}.n1", shape.hidden, 1), 1e-6)
            q, k, v = (
                ops.linear(
                    h,
                    matrix(f"{i}.{name}", heads * shape.head_dim, shape.hidden),
                    vector(f"{i}.{name}b", heads * shape.head_dim, 0) if shape.bias else None,
                )
                for name, heads in sizes.items()
            )
            h = ops.attention(ops.rope(q, rope, shape.heads), ops.rope(k, rope, shape.kv_heads), v, i, spec)
            x = ops.add(x, ops.linear(h, matrix(f"{i}.o", shape.hidden, shape.heads * shape.head_dim)))
            h = ops.rms_norm(x, vector(f"{i}.n2", shape.hidden, 1), 1e-6)
            gate, up = (ops.linear(h, matrix(f"{i}.{name}", shape.ffn, shape.hidden)) for name in ("gate", "up"))
            x = ops.add(x, ops.linear(ops.gated(gate, up, "silu"), matrix(f"{i}.down", shape.hidden, shape.ffn)))
        return ops.logits(ops.rms_norm(ops.logit_rows(x), vector("n", shape.hidden, 1), 1e-6), table)

    return Model("random", shape.vocab, shape.hidden, shape.layers, context, (spec,) * shape.layers, weights, forward)


def random_weights() -> AbstractContextManager[Any]:
    """Within it, backends get matrices of random numbers instead of the model's."""
    return mock.patch.object(layout, "matrix", random_matrix)


def random_matrix(weights: Sequence[Weight], device: torch.device) -> layout.Matrix:
    """As `layout.matrix`; the numbers follow from the names of the weights."""
    first = weights[0]
    rows, columns = sum(weight.shape[0] for weight in weights), first.shape[1]
    seed = zlib.crc32(first.name.encode())
    dice = torch.Generator(device).manual_seed(seed)
    if first.type in DENSE:
        wide = torch.zeros(rows, aligned(columns), dtype=layout.DTYPES[first.type], device=device)
        wide[:, :columns].normal_(0, columns**-0.5, generator=dice)
        return layout.Matrix(rows, columns, first.type, wide[:, :columns])
    values: F32 = np.random.default_rng(seed).normal(0, columns**-0.5, (SAMPLE, columns)).astype(np.float32)
    chosen = torch.randint(0, SAMPLE, (rows,), device=device, generator=dice)
    parts = [
        None if part is None else torch.from_numpy(np.ascontiguousarray(part)).to(device)[chosen]
        for part in arrange(quantize(values, first.type, first.name))
    ]
    return layout.Matrix(rows, columns, first.type, layout.Tensors(*parts))
