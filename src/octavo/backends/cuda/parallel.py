"""Ranks of tensor parallelism: processes with a device each, which run the same launches and gather columns
(plan/shard.py says which). NCCL carries them between GPUs, gloo between processes of a CPU, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from octavo.backends.cuda.launch import Launch
from octavo.backends.plan.shard import Share

PATIENCE = timedelta(seconds=60)  # after which a rank that waits for another one gives up


class Ranks:
    """This process's place among the ranks. address: host:port of rank 0, free to listen on. All ranks must be made at
    once: each waits for the others."""

    def __init__(self, share: Share, address: str, device: torch.device):
        self.share = share
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=f"tcp://{address}", rank=share.rank,
            world_size=share.ranks, timeout=PATIENCE,
        )  # fmt: skip

    def gather(self, out: Tensor, x: Tensor) -> None:
        """out [T, ranks * W]: every rank's x [T, W], side by side in the order of the ranks."""
        mine = x.contiguous()
        parts = torch.empty(self.share.ranks, *mine.shape, dtype=mine.dtype, device=mine.device)
        # As bytes: gloo does not know every type.
        distributed.all_gather_into_tensor(parts.flatten(0, 1).view(torch.uint8), mine.view(torch.uint8))
        out.unflatten(1, (self.share.ranks, -1)).copy_(parts.transpose(0, 1))

    def close(self) -> None:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Gathering(Launch):
    """A launch in name: the ranks' exchange. It stands among kernels, in order, and in graphs."""

    ranks: Ranks | None = None

    @property
    def name(self) -> str:
        return "gather_ranks"

    def __call__(self) -> None:
        assert self.ranks is not None
        self.ranks.gather(*self.arguments)

    def compile(self) -> Any:
        raise TypeError("it is not a kernel")


def gathering(ranks: Ranks, out: Tensor, x: Tensor) -> Launch:
    return Gathering(None, (), (out, x), {}, "", ranks)
