"""Packs a model's matrices into panels (native/pack.h): into memory for a run, or one at a time for an artifact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from octavo import _native
from octavo.backends.base import Progress
from octavo.backends.cpu.lower import fused
from octavo.backends.plan.nodes import Embed, Linear, Trace
from octavo.config import default_threads
from octavo.errors import ModelFileError
from octavo.ir import ROWS, Model, Weight
from octavo.weights.checkpoint import Bytes, release

LAYOUT = _native.LAYOUT_VERSION  # panel layout version; equals `Weight.layout` in an artifact


def matrices(trace: Trace) -> list[Weight]:
    """Every matrix that the pass reads, once each, in the order of first use."""
    found: dict[Weight, None] = {}
    for node in trace.nodes:
        if isinstance(node, Embed):
            found[node.table] = None
        elif isinstance(node, Linear):
            for matmul in node.matmuls:
                found[matmul.weight] = None
                if matmul.up:
                    found[matmul.up] = None
    return list(found)


def check_panels(model: Model) -> None:
    """Raises ModelFileError if an artifact's panels have another layout or the wrong length."""
    for weight in (w for w in model.weights.values() if w.layout != ROWS):
        if weight.layout != LAYOUT:
            raise ModelFileError(
                f"{model.name}: manifest.json: layout: {weight.layout} instead of {LAYOUT}: "
                "made by another version of Octavo: build it again from the model file"
            )
        if weight.data.nbytes != (size := packed_bytes(weight)):
            raise ModelFileError(
                f"{model.name}: manifest.json: weights {weight.name!r}: {weight.data.nbytes} bytes of panels, "
                f"but type {weight.type} and shape {list(weight.shape)} call for {size}"
            )


class PackedMatrices:
    """Matrices in panels: an artifact's stay mapped, others are packed into memory.

    bytes: of all panels, mapped or not.
    """

    def __init__(self, weights: list[Weight], pool: _native.Pool, progress: Progress | None = None):
        rows = [w for w in weights if w.layout == ROWS]
        offsets = np.cumsum([0, *(packed_bytes(w) for w in rows)])
        self._memory = _native.Weights(int(offsets[-1]))
        self.bytes = sum(packed_bytes(w) for w in weights)
        self.views = {w: view(w) for w in weights if w.layout != ROWS}
        for weight, offset in zip(watched(rows, progress), offsets[:-1], strict=True):
            self.views[weight] = pack(weight, pool, self._memory, int(offset))


def packed_bytes(weight: Weight) -> int:
    rows, columns = weight.shape
    return _native.packed_bytes(weight.type, rows, columns)


def view(weight: Weight) -> _native.PackedWeight:
    rows, columns = weight.shape
    return _native.PackedWeight(weight.type, weight.data, rows, columns)


def pack(weight: Weight, pool: _native.Pool, memory: _native.Weights, offset: int) -> _native.PackedWeight:
    rows, columns = weight.shape
    return memory.pack(pool, weight.type, weight.data, rows, columns, offset)


def watched(weights: list[Weight], progress: Progress | None) -> Iterator[Weight]:
    """Yields the weights and releases each one's file pages afterwards, so peak memory is the copy plus one weight."""
    total, done = sum(w.data.nbytes for w in weights), 0
    for weight in weights:
        yield weight
        release(weight.data)
        done += weight.data.nbytes
        if progress:
            progress(done, total)


def panels(model: Model, progress: Progress | None = None) -> Iterator[tuple[str, Weight, Bytes]]:
    """Name, weight and panels of each matrix in turn; the panels are valid until the next one. For `write_artifact`."""
    pool = _native.Pool(default_threads())
    names = {weight: name for name, weight in model.weights.items()}
    for weight in watched(matrices(fused(model)), progress):
        memory = _native.Weights(packed_bytes(weight))
        pack(weight, pool, memory, 0)
        yield names[weight], weight, memory.data
