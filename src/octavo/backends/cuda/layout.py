"""Weights on the device: quantised ones as kernels/weights.py reads them, dense ones as they are, vectors as f32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from octavo.backends.cuda.encodings import DENSE, ENCODINGS, Encoding, arrange
from octavo.backends.cuda.values import aligned
from octavo.ir import Weight
from octavo.types import F32
from octavo.weights.checkpoint import release
from octavo.weights.dequantize import IQ4_LEVELS, dequantize

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SLICE = 1 << 24  # values of a weight arranged at once


class Tensors(NamedTuple):
    """`encodings.Arrays` on the device."""

    codes: Tensor
    outer: Tensor
    inner: Tensor | None
    offset_outer: Tensor | None
    offset_inner: Tensor | None


@dataclass(frozen=True, eq=False)
class Matrix:
    """One weight, or several of one type, row after row. data: `Tensors`, or [rows, columns] if dense."""

    rows: int
    columns: int
    type: str
    data: Any

    @property
    def encoding(self) -> Encoding | None:
        return ENCODINGS.get(self.type)

    @property
    def nbytes(self) -> int:
        parts = [self.data] if self.encoding is None else [each for each in self.data if each is not None]
        return sum(int(part.untyped_storage().nbytes()) for part in parts)


def matrix(weights: Sequence[Weight], device: torch.device) -> Matrix:
    """Their rows one after the other. All have one type and the same columns. On "meta" it has a shape, no content."""
    first = weights[0]
    rows, columns = sum(weight.shape[0] for weight in weights), first.shape[1]
    assert {(weight.type, weight.shape[1]) for weight in weights} == {(first.type, columns)}
    if first.type in DENSE:
        wide = torch.zeros(rows, aligned(columns), dtype=DTYPES[first.type], device=device)
        data: Any = wide[:, :columns]
    else:
        shapes = [None if part is None else part.shape[1] for part in arrange(first, slice(0, 1))]
        kinds = [None if part is None else part.dtype for part in arrange(first, slice(0, 1))]
        data = Tensors(*(_empty(rows, w, k, device) for w, k in zip(shapes, kinds, strict=True)))
    at = 0
    for weight in weights if device.type != "meta" else ():
        step = max(1, SLICE // columns)
        for start in range(0, weight.shape[0], step):
            part = slice(start, min(start + step, weight.shape[0]))
            _fill(data, at + start, weight, part)
        at += weight.shape[0]
        release(weight.data)
    return Matrix(rows, columns, first.type, data)


def _empty(rows: int, columns: int | None, dtype: Any, device: torch.device) -> Any:
    if columns is None:
        return None
    return torch.empty(rows, columns, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)


def _fill(data: Any, at: int, weight: Weight, rows: slice) -> None:
    target = slice(at, at + rows.stop - rows.start)
    if weight.type in DENSE:
        raw = weight.data.reshape(weight.shape[0], -1)[rows]
        data[target] = torch.from_numpy(raw.copy()).view(DTYPES[weight.type])
        return
    for tensor, array in zip(data, arrange(weight, rows), strict=True):
        if array is not None:
            tensor[target] = torch.from_numpy(np.ascontiguousarray(array))


def vector(values: F32, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.reshape(-1), np.float32)).to(device)


def constant(weight: Weight, device: torch.device) -> Tensor:
    return vector(dequantize(weight), device)


def levels(device: torch.device) -> Tensor:
    """IQ4's table."""
    return vector(IQ4_LEVELS.astype(np.float32), device)
