"""The launches of an attention layer: heads, then attention in both forms, then the sums of parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from octavo.backends.cuda.kernels import attention as kernels
from octavo.backends.cuda.kernels import heads as heads_kernel
from octavo.backends.cuda.launch import (
    INTERPRETED,
    MAX_PARTS,
    PART_TOKENS,
    PROGRAMS,
    VALUES,
    Launch,
    attend_tile,
    rows_at_once,
)
from octavo.backends.cuda.pool import KvPool
from octavo.backends.cuda.step import ADDED, PARTS, TABLES, WHOLE, Fields, Steps
from octavo.backends.cuda.work import view
from octavo.backends.plan.nodes import SelfAttention
from octavo.errors import ConfigError
from octavo.ir import Attention

Op = Callable[[Fields], list[Launch]]


DOT = 16  # columns that a tensor core multiplies at least: smaller heads are padded with zeros


def check_heads(layers: Sequence[Attention], kv: str) -> None:
    """Raises ConfigError where a tile cannot hold the heads of one token that share a key."""
    for spec in layers:
        group, tile = spec.heads // spec.kv_heads, attend_tile(max(spec.head_dim, spec.value_dim), False, kv)
        if group > tile.rows:
            raise ConfigError(
                f"backend cuda computes at most {tile.rows} query heads for each KV head with kv_cache_dtype {kv}; "
                f"this model has {group}: choose another kv_cache_dtype, or backend cpu"
            )


def power(size: int) -> int:
    return 1 << (size - 1).bit_length()


class Parts:
    """Memory for the sums of splits, which all layers use in turn."""

    def __init__(self, steps: Steps, pool: KvPool, device: torch.device):
        self.steps, self.pool = steps, pool
        values = max(spec.heads * spec.value_dim for spec in pool.layers)
        heads = max(spec.heads for spec in pool.layers)
        self.acc = torch.zeros(MAX_PARTS, values, device=device)
        self.mz = torch.zeros(MAX_PARTS, 2 * heads, device=device)

    @property
    def nbytes(self) -> int:
        return int(self.acc.nbytes + self.mz.nbytes)


def heads(
    node: SelfAttention,
    pool: KvPool,
    out: Tensor,
    qkv: Sequence[Tensor],
    norms: Sequence[Tensor | None],
    angles: Tensor | None,
) -> Op:
    spec, place, rope = node.spec, pool.places[node.layer], node.rope
    eps = node.q_norm.eps if node.q_norm else 0.0

    def op(f: Fields) -> list[Launch]:
        each = rows_at_once(f.tokens, 64) if INTERPRETED else 8
        programs = -(-f.tokens * spec.heads // each) + 2 * -(-f.tokens * spec.kv_heads // each)
        scale_stride = 0 if pool.scales is None else pool.scales.stride(0)
        arguments = (
            out, *qkv, *norms, angles, f.positions, f.slots, pool.data, pool.scales, eps, f.tokens,
            *(x.stride(0) for x in qkv), *place, pool.data.stride(0), scale_stride,
        )  # fmt: skip
        constants = {
            "HEADS": spec.heads, "KV_HEADS": spec.kv_heads, "D": spec.head_dim, "VD": spec.value_dim,
            "BLOCK": power(spec.head_dim), "V_BLOCK": power(spec.value_dim),
            "DIM": 2 * len(rope.inv_freq) if rope else 0, "INTERLEAVED": bool(rope and rope.interleaved),
            "PAGE": pool.block_size, "ROWS": each,
        }  # fmt: skip
        return [Launch(heads_kernel.heads, (programs,), arguments, constants)]

    return op


def attend(node: SelfAttention, parts: Parts, q: Tensor, out: Tensor) -> Op:
    spec, pool, steps = node.spec, parts.pool, parts.steps
    place, seen = pool.places[node.layer], view(spec, pool.dtype, pool.wgmma)
    index = steps.views.index(seen)
    wide = max(DOT, power(spec.value_dim))
    width = min(wide, VALUES)
    pieces = wide // width
    geometry = {
        "HEADS": spec.heads, "KV_HEADS": spec.kv_heads, "D": spec.head_dim, "VD": spec.value_dim,
        "BLOCK": max(DOT, power(spec.head_dim)), "V_BLOCK": width, "PIECES": pieces, "PAGE": pool.block_size,
        "CAP": spec.softcap,
    }  # fmt: skip
    shared = {"SPLIT": seen.split, "WINDOW": spec.window}

    def op(f: Fields) -> list[Launch]:
        scale_stride = 0 if pool.scales is None else pool.scales.stride(0)
        arguments = (
            out, parts.acc, parts.mz, q, pool.data, pool.scales, f.blob, f.last, f.tails, f.path_at, f.part_at[index],
            spec.scale, *place, pool.data.stride(0), scale_stride,
        )  # fmt: skip
        launches = []
        for whole in (True, False):
            tile = attend_tile(max(spec.head_dim, spec.value_dim), whole, pool.dtype, pool.wgmma)
            options = {} if INTERPRETED else {"num_warps": tile.warps, "num_stages": tile.stages}
            constants: dict[str, Any] = {"TABLES": TABLES, "M": tile.rows, "WHOLE": whole}
            constants["ITEMS"] = steps.header(seen, WHOLE if whole else PARTS)
            grid = (1 if INTERPRETED else PROGRAMS, spec.kv_heads * pieces)
            constants |= geometry | shared | options
            launches.append(Launch(kernels.attend, grid, arguments, constants, "whole" if whole else "parts"))
        block = min(8, power(spec.heads))
        constants = {
            "ROWS_AT": steps.header(seen, ADDED), "HEADS": spec.heads, "VD": spec.value_dim,
            "V_BLOCK": power(spec.value_dim), "H_BLOCK": block,
        }  # fmt: skip
        grid = (min(f.tokens, PART_TOKENS), -(-spec.heads // block))
        summed = (out, parts.acc, parts.mz, f.blob, f.last, f.part_at[index])
        launches.append(Launch(kernels.add_parts, grid, summed, constants | shared))
        return launches

    return op
