"""Attention over the paged cache: close to its twin, and a query's bits do not depend on the rest of the step.

Blocks are scattered. Memory that no token has written is NaN, so a read of it shows in the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo import _native
from octavo.types import F32, I32
from tests.ops import twins


class Context:
    """One sequence of `length` tokens in a layer's cache, with a query for every position."""

    def __init__(
        self,
        length: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        kv_type: str = "bf16",
        block_size: int = 16,
        window: int = 0,
        softcap: float = 0.0,
        seed: int = 0,
    ):
        rng = np.random.default_rng(seed)
        self.length, self.window, self.softcap, self.scale = length, window, softcap, head_dim**-0.5
        kv_type, _, biased = kv_type.partition("-")
        if kv_type == "k8v4" and head_dim % 32:
            pytest.skip("k8v4 has groups of 32 dims")
        self.layout = twins.KvLayout(kv_type, kv_heads, head_dim, block_size)
        self.positions: I32 = np.arange(length, dtype=np.int32)
        self.offset = twins.KeyOffset(kv_heads, head_dim, length) if biased else None
        self.q = (rng.standard_normal((length, heads, head_dim)) * 2).astype(np.float32)
        self.k, self.v = rng.standard_normal((2, length, kv_heads, head_dim)).astype(np.float32)
        if self.offset:
            self.k += np.array([self.offset.own(position) for position in range(length)])
        self.num_blocks = -(-length // block_size) + 2  # block 0 and one more stay unwritten
        self.table: I32 = (1 + rng.permutation(self.num_blocks - 2)).astype(np.int32)
        self.cache = _native.KvCache([(kv_heads, head_dim)], self.num_blocks, block_size, twins.KV_TYPES[kv_type])
        self.memory = _native.ops.kv_memory(self.cache)
        self.memory[:] = 0xFF
        position = np.arange(length)
        self.slots = (self.table[position // block_size] * block_size + position % block_size).astype(np.int32)
        self.write(0, length)

    def write(self, start: int, stop: int) -> None:
        q, k, v = (x[start:stop].reshape(stop - start, -1).copy() for x in (self.q, self.k, self.v))
        offset = (self.offset.arrays, self.positions[start:stop]) if self.offset else (None, None)
        slots = self.slots[start:stop]
        _native.ops.qkv("portable", self.cache, 0, slots, q, k, v, None, None, 0.0, None, False, *offset)

    def attend(
        self, isa: str, *spans: tuple[int, int], cut: bool | None = None, parents: I32 | None = None
    ) -> list[F32]:
        """Runs one step whose sequences are prefixes of this one: for each span, queries start .. stop.

        cut: whether splits must (not) have been computed apart and merged. parents: see `Batch.parents`.
        """
        starts = np.cumsum([0, *(stop - start for start, stop in spans)], dtype=np.int32)
        q = np.concatenate([self.q[start:stop] for start, stop in spans]).reshape(starts[-1], -1)
        out = np.full_like(q, np.nan)
        tables = np.repeat(self.table[None], len(spans), 0)
        lens = np.array([stop for _, stop in spans], np.int32)
        _, merges = _native.ops.attention(
            isa,
            self.cache,
            0,
            q,
            starts,
            lens,
            tables,
            parents,
            self.window,
            self.scale,
            self.softcap,
            out,
            self.offset.arrays if self.offset else None,
        )
        assert cut is None or cut == (merges > 0)
        return np.split(out, starts[1:-1])

    def twin(self, start: int, stop: int) -> F32:
        """The same in float64, over the values in the cache."""
        return self.seen_from(np.arange(stop), self.q[start:stop], start)

    def seen_from(self, seen: NDArray[np.intp], q: F32, start: int) -> F32:
        """Queries at positions `start` and on, over the keys with these indices."""
        blocks = [self.layout.read(self.memory, b) for b in self.table]
        k, v = (np.concatenate([b[i] for b in blocks], 1).swapaxes(0, 1)[seen] for i in (0, 1))
        kv_type, shift = self.layout.kv_type, None
        if self.offset:  # exact, with the query as it is
            c = self.offset.at(np.arange(len(seen), dtype=np.int32))
            shift = (q.astype(np.float64), c.astype(np.float64))
        out = twins.attention(twins.queried(q, kv_type), k, v, start, self.scale, self.window, self.softcap, shift)
        return twins.turned(out.astype(np.float32), kv_type).reshape(len(q), -1)


def error(context: Context, isa: str, span: tuple[int, int]) -> float:
    """The largest difference from the twin; NaN if there is one."""
    return float(np.abs(context.attend(isa, span)[0] - context.twin(*span)).max())


def chunks(length: int, sizes: Iterator[int]) -> Iterator[tuple[int, int]]:
    start = 0
    while start < length:
        stop = min(length, start + next(sizes))
        yield start, stop
        start = stop


GEOMETRY = [(1, 1, 64), (6, 2, 64), (8, 1, 64), (5, 1, 80), (4, 2, 128), (4, 1, 256)]  # heads, kv heads, head_dim
CACHES = list(itertools.product(twins.CACHED, [16, 32]))


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), GEOMETRY)
def test_near_the_twin(isa: str, heads: int, kv_heads: int, head_dim: int, kv_type: str, block_size: int):
    context = Context(150, heads, kv_heads, head_dim, kv_type, block_size)
    for span in [(0, 1), (0, 37), (37, 101), (149, 150)]:
        assert error(context, isa, span) < twins.ATTENTION_NEAR[kv_type]


@pytest.mark.parametrize("window", [0, 1, 16, 77, 600])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("kv_type", ["bf16", "int8-biased"])
def test_windows_and_softcaps(isa: str, window: int, softcap: float, kv_type: str):
    context = Context(700, 2, 1, 64, kv_type, window=window, softcap=softcap)
    for span in [(0, 40), (500, 530), (699, 700)]:
        assert error(context, isa, span) < twins.ATTENTION_NEAR[kv_type]


@pytest.mark.parametrize("kv_type", twins.CACHED)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "window"), [(3, 1, 64, 0), (7, 1, 64, 300), (2, 2, 128, 0)])
def test_a_query_is_the_same_bits_in_any_chunk(
    isa: str, heads: int, kv_heads: int, head_dim: int, window: int, kv_type: str
):
    length = 600 if isa == "portable" else 1600
    context = Context(length, heads, kv_heads, head_dim, kv_type, window=window)
    [whole] = context.attend(isa, (0, length), cut=False)
    assert not np.isnan(whole).any()
    sizes = itertools.cycle([1, 1, 5, 8, 9, 30, 64, 131, 3, 16, 200])
    for start, stop in chunks(length, sizes):
        [part] = context.attend(isa, (start, stop))
        assert part.tobytes() == whole[start:stop].tobytes(), (start, stop)


def test_cutting_along_the_keys_changes_no_bit(isa: str):
    """8 queries are computed split by split and merged, 9 in one go."""
    context = Context(1300, 3, 1, 64)
    [few] = context.attend(isa, (1290, 1298), cut=True)
    [many] = context.attend(isa, (1290, 1299), cut=False)
    assert few.tobytes() == many[:8].tobytes()


def test_neighbours_in_the_batch_change_no_bit(isa: str):
    context = Context(700, 3, 1, 64)
    spans = [(600, 640), (699, 700), (0, 3), (520, 521), (511, 514)]
    together = context.attend(isa, *spans)
    for span, ours in zip(spans, together, strict=True):
        assert ours.tobytes() == context.attend(isa, span)[0].tobytes()


def test_block_size_changes_no_bit(isa: str):
    spans = [(0, 70), (580, 581)]
    a, b = (Context(600, 4, 2, 64, block_size=size).attend(isa, *spans) for size in (16, 32))
    assert all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kv_type", twins.CACHED)
def test_later_tokens_are_never_seen(isa: str, kv_type: str):
    """The result over a half-written last block stays the same after more tokens have been written there."""
    context = Context(96, 2, 1, 64, kv_type)
    [before] = context.attend(isa, (80, 85))
    context.k[85:], context.v[85:] = np.nan, 1e30
    context.write(85, 96)
    assert context.attend(isa, (80, 85))[0].tobytes() == before.tobytes()


def test_blocks_before_the_window_are_not_read(isa: str):
    context = Context(700, 2, 1, 64, window=100)
    [before] = context.attend(isa, (690, 700))
    context.table = context.table.copy()
    context.table[: (690 - 99) // 16] = 0  # a block of NaN
    assert context.attend(isa, (690, 700))[0].tobytes() == before.tobytes()


@pytest.mark.parametrize("kv_type", twins.CACHED)
def test_many_small_weights_count_beside_a_large_one(isa: str, kv_type: str):
    """An attention sink: one key has most of the weight. 1,000 others share the rest, each below 1e-5 of it."""
    context = Context(1001, 1, 1, 64, kv_type)
    context.q[:], context.k[:], context.v[:] = 1.0, 0.0, 1.0
    context.k[0], context.v[0, 0, :32] = 1.5, 0.0  # 64 dims, scale 1 / 8: a score of 12
    context.write(0, 1001)
    share = 1000 / (1000 + np.exp(12))
    stored = context.twin(1000, 1001)[0, :32]
    assert stored[1:] == pytest.approx(share, rel=0.01)  # the first has k8v4's rounding of all
    # Of quantised ones those beside it in a step of 64 keys. With k8v4 the rotation back puts what all lose in one dim.
    lost = {"f32": 1e-3, "bf16": 1e-3, "int8": 0.065, "k8v4": 1.1}[context.layout.kv_type]
    assert context.attend(isa, (1000, 1001))[0][0, :32] == pytest.approx(stored, abs=lost * share)


def test_equal_scores_average_the_values(isa: str):
    context = Context(200, 1, 1, 64, "f32")
    context.q[:] = 0
    assert context.attend(isa, (199, 200))[0] == pytest.approx(context.v[:, 0].mean(0, keepdims=True), abs=1e-6)


def test_scores_of_any_size_are_finite(isa: str):
    context = Context(130, 1, 1, 64, "f32")
    context.q *= 1e4
    assert context.attend(isa, (0, 130))[0] == pytest.approx(context.twin(0, 130), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kv_type", twins.CACHED)
@pytest.mark.parametrize("where", ["k", "v"])
def test_a_nan_stays_in_its_own_sequence_and_after_it(isa: str, where: str, kv_type: str):
    context = Context(100, 1, 1, 64, kv_type)
    getattr(context, where)[50] = np.nan
    context.write(50, 51)
    [early, late] = context.attend(isa, (0, 50), (50, 100))
    assert not np.isnan(early).any()
    assert np.isnan(late).all()


@pytest.mark.parametrize("kv_type", twins.CACHED)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), GEOMETRY)
def test_same_bits_on_every_instruction_set(isa: str, heads: int, kv_heads: int, head_dim: int, kv_type: str):
    context = Context(560, heads, kv_heads, head_dim, kv_type, softcap=20.0)
    spans = [(0, 5), (100, 117), (558, 560)]
    for ours, plain in zip(context.attend(isa, *spans), context.attend("portable", *spans), strict=True):
        assert ours.tobytes() == plain.tobytes()
