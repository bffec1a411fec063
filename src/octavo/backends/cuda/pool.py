"""The KV pool: one tensor, block-major, [blocks][layer][k, v][kv_heads][block_size][head_dim]; int8 has a second one
with the scales, [blocks][layer][k, v][kv_heads][block_size]. A block is contiguous, so copying one is one copy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from octavo.backends.cuda.kernels.moves import move
from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.stream import Stream, Upload
from octavo.config import CacheConfig
from octavo.ir import Attention
from octavo.types import Transfers

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
CHUNK = 1024  # values that a program copies of a block


class Place(NamedTuple):
    """Where a layer's keys and values begin within a block, and their scales."""

    k: int
    v: int
    k_scale: int
    v_scale: int


class KvPool:
    def __init__(self, cache: CacheConfig, layers: tuple[Attention, ...], stream: Stream, wgmma: bool = True):
        self.layers, self.block_size, self.dtype = layers, cache.block_size, cache.dtype
        self.wgmma = wgmma  # see `launch.attend_tile`
        device = stream.device
        page = cache.block_size
        self.places: list[Place] = []
        at = scale_at = 0
        planes: dict[int, list[int]] = {}  # width -> where the planes [block_size, width] of this width begin
        for spec in layers:
            k, v = spec.kv_heads * page * spec.head_dim, spec.kv_heads * page * spec.value_dim
            self.places.append(Place(at, at + k, scale_at, scale_at + spec.kv_heads * page))
            planes.setdefault(spec.head_dim, []).extend(range(at, at + k, page * spec.head_dim))
            planes.setdefault(spec.value_dim, []).extend(range(at + k, at + k + v, page * spec.value_dim))
            at, scale_at = at + k + v, scale_at + 2 * spec.kv_heads * page
        self.data = torch.zeros(cache.num_blocks, at, dtype=DTYPES[cache.dtype], device=device)
        self.scales: torch.Tensor | None = None
        if cache.dtype == "int8":
            self.scales = torch.zeros(cache.num_blocks, scale_at, dtype=torch.float32, device=device)
        self._moves, self._copies = Upload(stream), Upload(stream)
        self._planes = {width: self._upload(starts) for width, starts in planes.items()}
        self._heads = self._upload(range(0, scale_at, page))
        self._pieces = [(tensor, *self._cut(tensor.shape[1])) for tensor in self._tensors]

    def _upload(self, values: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(values, np.int32)).to(self.data.device)

    def _cut(self, size: int) -> tuple[int, torch.Tensor]:
        """(values of a piece of a block, where its pieces begin)."""
        chunk = next(c for c in range(min(CHUNK, size), 0, -1) if size % c == 0)
        return chunk, self._upload(range(0, size, chunk))

    @property
    def _tensors(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.data, self.scales) if tensor is not None]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    def launches(self, transfers: Transfers) -> list[Launch]:
        """All moves in order, then all copies in order. Each plane is a program's own, so planes need not wait."""
        found: list[Launch] = []
        if len(transfers.moves):
            slots, page = self._moves(transfers.moves.reshape(-1)), self.block_size
            found += [self._move(self.data, slots, starts, width, page) for width, starts in self._planes.items()]
            if self.scales is not None:
                found.append(self._move(self.scales, slots, self._heads, 1, page))
        if len(transfers.copies):
            blocks = self._copies(transfers.copies.reshape(-1))
            found += [self._move(tensor, blocks, starts, chunk, 1) for tensor, chunk, starts in self._pieces]
        return found

    def _move(self, tensor: torch.Tensor, pairs: torch.Tensor, planes: torch.Tensor, width: int, page: int) -> Launch:
        block = 1 << (width - 1).bit_length()
        arguments = (tensor, pairs, planes, len(pairs) // 2, tensor.shape[1], width)
        return Launch(move, (len(planes),), arguments, {"PAGE": page, "BLOCK": block})
