"""Errors after which a GPU runs nothing more. CUDA reports a failed kernel at a later call, and at every one from then
on: only a new process gets a working device (`BackendLost`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from octavo.backends.base import BackendLost


@contextmanager
def watched(probe: Callable[[], object] = torch.cuda.synchronize) -> Iterator[None]:
    """Turns an error into BackendLost if the device has failed: then `probe` fails too. Other errors pass unchanged,
    such as memory that runs out, after which the device still works."""
    try:
        yield
    except BackendLost:
        raise
    except Exception as error:
        try:
            probe()
        except Exception:
            raise BackendLost(f"the GPU has failed: {one_line(error)}") from error
        raise


def one_line(error: Exception) -> str:
    """torch appends advice on debugging to its messages."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
