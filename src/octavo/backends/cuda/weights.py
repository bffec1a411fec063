"""The model's matrices on the device, each once, whichever passes use it."""

from __future__ import annotations

import torch

from octavo.backends.base import Progress
from octavo.backends.cuda import layout
from octavo.backends.cuda.layout import Matrix
from octavo.backends.cuda.values import Key, keys
from octavo.backends.plan.nodes import Trace
from octavo.errors import ConfigError
from octavo.ir import ROWS, Model


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
