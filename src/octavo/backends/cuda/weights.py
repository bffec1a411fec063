"""The model's matrices on the device, each once, whichever passes use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.backends.base import Progress
from octavo.backends.cuda import layout
from octavo.backends.cuda.layout import Matrix
from octavo.backends.plan.nodes import Embed, Linear, MatMul, Trace
from octavo.errors import ConfigError
from octavo.ir import ROWS, Model, Weight

Key = tuple[Weight, ...]  # weights whose rows follow one another in one matrix


def by_type(matmuls: Sequence[MatMul]) -> list[list[MatMul]]:
    """Matmuls that one launch can do: of one encoding, and none of them adds to another value or has a gate."""
    groups: dict[object, list[MatMul]] = {}
    for i, matmul in enumerate(matmuls):
        alone = matmul.into is not None or matmul.up is not None
        groups.setdefault(i if alone else matmul.weight.type, []).append(matmul)
    return list(groups.values())


def key(matmuls: Sequence[MatMul]) -> Key:
    return tuple(weight for m in matmuls for weight in (m.weight, m.up) if weight is not None)


def keys(trace: Trace) -> list[Key]:
    """Every matrix of the pass, once each."""
    found: dict[Key, None] = {}
    for node in trace.nodes:
        if isinstance(node, Embed):
            found[(node.table,)] = None
        elif isinstance(node, Linear):
            found |= {key(group): None for group in by_type(node.matmuls)}
    return list(found)


class Weights:
    """Matrices by key. They are arranged at the first call of `load`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.matrices: dict[Key, Matrix] = {}
        self.levels = layout.levels(device)

    def load(self, trace: Trace, progress: Progress | None = None) -> None:
        wanted = [each for each in keys(trace) if each not in self.matrices]
        sizes = [sum(weight.data.nbytes for weight in each) for each in wanted]
        done = 0
        for each, size in zip(wanted, sizes, strict=True):
            self.matrices[each] = layout.matrix(each, self.device)
            done += size
            if progress:
                progress(done, sum(sizes))

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices.values())


def check_rows(model: Model) -> None:
    """Raises ConfigError for an artifact, whose panels are the CPU backend's."""
    if any(weight.layout != ROWS for weight in model.weights.values()):
        raise ConfigError("backend cuda cannot run an artifact: give it the original model file")
