"""SnapKV's choice and copy: what `kv.snapkv.choose` says of attention in float64, and the same on every instruction
set."""

from __future__ import annotations

import numpy as np
import pytest

from octavo import _native
from octavo.kv.snapkv import choose
from octavo.types import F32, I32
from tests.ops import twins
from tests.ops.test_attention import CACHES, Context


def kept(isa: str, context: Context, queries: int, keep: int, pool: int) -> tuple[F32, F32]:
    """(K, V) of the entries in the target blocks, [kv_heads, keep, head_dim] each. The context is left as it was."""
    size = context.layout.block_size
    blocks = -(-keep // size)
    cache = _native.KvCache(
        [(context.layout.kv_heads, context.layout.head_dim)],
        context.num_blocks + blocks,
        size,
        twins.KV_TYPES[context.layout.kv_type],
    )
    memory = _native.ops.kv_memory(cache)
    memory[:] = 0xFF
    memory[: len(context.memory)] = context.memory
    targets = np.arange(context.num_blocks, context.num_blocks + blocks, dtype=np.int32)
    q = context.q[context.length - queries :].reshape(queries, -1).copy()  # it may be rotated in place
    _native.ops.snapkv(
        isa, cache, 0, q, context.table[None].copy(), context.length, targets, keep, pool, context.window,
        context.scale, context.softcap,
    )  # fmt: skip
    read = [context.layout.read(memory, int(block)) for block in targets]
    k, v = (np.concatenate([each[i] for each in read], 1)[:, :keep] for i in (0, 1))
    assert memory[: len(context.memory)].tobytes() == context.memory.tobytes()
    return k, v


def expected(context: Context, queries: int, keep: int, pool: int) -> list[I32]:
    """The entries that each KV head keeps."""
    if context.window:
        last = np.arange(context.length - keep, context.length, dtype=np.int32)
        return [last] * context.layout.kv_heads
    read = [context.layout.read(context.memory, int(block)) for block in context.table]
    keys = np.concatenate([each[0] for each in read], 1)[:, : context.length].astype(np.float64)
    group = context.q.shape[1] // context.layout.kv_heads
    out = []
    for head in range(context.layout.kv_heads):
        mass = np.zeros(context.length)
        for token in range(context.length - queries, context.length):
            for q in twins.turned(context.q[token, head * group : (head + 1) * group], context.layout.kv_type):
                scores = keys[head, : token + 1] @ q.astype(np.float64) * context.scale
                if context.softcap:
                    scores = context.softcap * np.tanh(scores / context.softcap)
                weights = np.exp(scores - scores.max())
                mass[: token + 1] += weights / weights.sum()
        out.append(choose(mass.astype(np.float32), queries, keep, pool))
    return out


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
@pytest.mark.parametrize(("length", "queries", "keep", "pool"), [(300, 8, 90, 7), (41, 1, 5, 1), (129, 32, 128, 3)])
def test_what_is_kept(isa: str, kv_type: str, block_size: int, length: int, queries: int, keep: int, pool: int):
    context = Context(length, 6, 2, 64, kv_type, block_size)
    read = [context.layout.read(context.memory, int(block)) for block in context.table]
    k, v = kept(isa, context, queries, keep, pool)
    for head, entries in enumerate(expected(context, queries, keep, pool)):
        for got, plane in ((k, 0), (v, 1)):
            whole = np.concatenate([each[plane] for each in read], 1)[head]
            assert np.array_equal(got[head], whole[entries])


@pytest.mark.parametrize(("window", "softcap"), [(0, 5.0), (50, 0.0), (400, 0.0)])
def test_softcap_and_layers_with_a_window(isa: str, window: int, softcap: float):
    context = Context(200, 4, 1, 32, window=window, softcap=softcap)
    k, _ = kept(isa, context, 16, 60, 7)
    whole = np.concatenate([context.layout.read(context.memory, int(block))[0] for block in context.table], 1)[0]
    assert np.array_equal(k[0], whole[expected(context, 16, 60, 7)[0]])


def test_the_same_on_every_instruction_set():
    context = Context(700, 6, 2, 64)
    first, *others = [kept(isa, context, 32, 200, 7) for isa in _native.isas()]
    assert all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_equal_scores_go_to_the_lower_positions(isa: str):
    context = Context(60, 2, 1, 32)
    context.k[:] = context.k[0]
    context.v[:] = np.arange(60, dtype=np.float32)[:, None, None]
    context.write(0, 60)
    _, v = kept(isa, context, 4, 14, 1)
    assert v[0, :, 0].tolist() == [*range(10), *range(56, 60)]
