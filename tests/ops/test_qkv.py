"""q and k get a norm per head and rotary embedding. k and v are written to the cache in the layout of each type."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from octavo import _native
from octavo.types import F32, I32
from tests.ops import twins

HEADS, KV_HEADS, BLOCKS = 4, 2, 3


def normal(*shape: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Case:
    """Some tokens at scattered slots; `run` gives q after the op and K, V as read from the cache's bytes."""

    def __init__(
        self,
        head_dim: int,
        block_size: int,
        kv_type: str,
        *,
        norm: bool,
        rope_dim: int,
        interleaved: bool,
        offset: bool = False,
    ):
        self.layout = twins.KvLayout(kv_type, KV_HEADS, head_dim, block_size)
        self.interleaved = interleaved
        self.slots: I32 = np.random.default_rng(5).permutation(BLOCKS * block_size)[:13].astype(np.int32)
        self.q = normal(13, HEADS, head_dim, seed=0)
        self.k, self.v = (normal(13, KV_HEADS, head_dim, seed=i) for i in (1, 2))
        self.v[3] = 0  # an all-zero row has scale 0
        self.norms = (normal(head_dim, seed=3), normal(head_dim, seed=4)) if norm else (None, None)
        table = [twins.angles(np.geomspace(1, 1e-3, rope_dim // 2, dtype=np.float32), 1, t) for t in range(13)]
        self.cos_sin = np.array(table, np.float32) if rope_dim else None
        self.positions: I32 = np.random.default_rng(6).integers(0, 300, 13, np.int32)
        self.positions[:3] = 8, 56, 296  # at a middle
        self.offset = twins.KeyOffset(KV_HEADS, head_dim, 300, interleaved) if offset else None

    def expected(self, x: F32, norm: F32 | None) -> F32:
        wide = x.astype(np.float64) if norm is None else twins.rms_norm(x, norm, 1e-5)
        if self.cos_sin is not None:
            rows = zip(wide, self.cos_sin.astype(np.float64), strict=True)
            wide = np.array([twins.rope(heads, cos_sin, self.interleaved) for heads, cos_sin in rows])
        return wide.astype(np.float32)

    def run(self, isa: str) -> tuple[F32, F32, F32]:
        shape = self.layout
        cache = _native.KvCache([(KV_HEADS, shape.head_dim)], BLOCKS, shape.block_size, twins.KV_TYPES[shape.kv_type])
        q = self.q.reshape(13, -1).copy()
        k, v = self.k.reshape(13, -1), self.v.reshape(13, -1)
        offset = (self.offset.arrays, self.positions) if self.offset else (None, None)
        _native.ops.qkv(isa, cache, 0, self.slots, q, k, v, *self.norms, 1e-5, self.cos_sin, self.interleaved, *offset)
        memory = _native.ops.kv_memory(cache)
        blocks = [shape.read(memory, b) for b in range(BLOCKS)]
        keys, values = (np.concatenate([b[i] for b in blocks], 1)[:, self.slots].swapaxes(0, 1) for i in (0, 1))
        return q.reshape(self.q.shape), keys, values


KV_CASES = [
    (dim, size, kind)
    for dim, size, kind in itertools.product([64, 80, 96], [16, 32], twins.KV_TYPES)
    if kind != "k8v4" or dim % 32 == 0
]


@pytest.mark.parametrize(("head_dim", "block_size", "kv_type"), KV_CASES)
def test_values_are_stored_as_their_type_says(isa: str, head_dim: int, block_size: int, kv_type: str):
    case = Case(head_dim, block_size, kv_type, norm=False, rope_dim=0, interleaved=False)
    q, k, v = case.run(isa)
    assert (q == case.q).all()
    assert (k == twins.stored(case.k, kv_type)).all()
    assert (v == twins.stored(case.v, kv_type, value=True)).all()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rope_dim", [0, 24, 64])  # 24: partial rotary, with an odd tail
@pytest.mark.parametrize("norm", [False, True])
def test_norm_and_rotation(isa: str, norm: bool, rope_dim: int, interleaved: bool):
    case = Case(64, 16, "f32", norm=norm, rope_dim=rope_dim, interleaved=interleaved)
    q, k, v = case.run(isa)
    assert q == pytest.approx(case.expected(case.q, case.norms[0]), rel=1e-5, abs=1e-6)
    assert k == pytest.approx(case.expected(case.k, case.norms[1]), rel=1e-5, abs=1e-6)
    assert (v == case.v).all()


@pytest.mark.parametrize("kv_type", twins.QUANTISED)
def test_a_nan_stays_visible_in_a_quantised_cache(isa: str, kv_type: str):
    case = Case(64, 16, kv_type, norm=False, rope_dim=0, interleaved=False)
    case.k[2, 1, 5] = case.v[2, 1, 5] = np.nan
    for x in case.run(isa)[1:]:
        assert np.isnan(x[2, 1]).any()
        assert not np.isnan(np.delete(x, 2, 0)).any()


def test_f16_scales_round_to_nearest_even(isa: str):
    """Scales and minima of all sizes, subnormal and overflowing ones among them."""
    case = Case(64, 16, "k8v4", norm=False, rope_dim=0, interleaved=False)
    sizes = np.float32(10) ** np.arange(-9, 4)
    case.v *= sizes[:, None, None]
    assert (case.run(isa)[2] == twins.stored(case.v, "k8v4", value=True)).all()


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128, 256, 512])
def test_rotation_keeps_products_and_is_its_own_inverse(isa: str, head_dim: int):
    """The transform itself, seen through the codes: its matrix has entries of one size, and H (H x) is x."""
    case = Case(head_dim, 16, "int8", norm=False, rope_dim=0, interleaved=False)
    case.k[:] = np.eye(head_dim, dtype=np.float32)[np.arange(13 * KV_HEADS) % head_dim].reshape(case.k.shape)
    k = case.run(isa)[1].reshape(-1, head_dim)
    assert np.abs(k) == pytest.approx(head_dim**-0.5, rel=1e-6)
    assert k[:8] @ k[:8].T == pytest.approx(np.eye(8), abs=1e-5)
    assert twins.hadamard(k) == pytest.approx(case.k.reshape(-1, head_dim), abs=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_keys_are_stored_less_their_offset(isa: str, head_dim: int, interleaved: bool):
    """The keys have the bias of their own position, the offset that of their 16 positions' middle: little is left."""
    case = Case(head_dim, 16, "int8", norm=False, rope_dim=0, interleaved=interleaved, offset=True)
    assert case.offset is not None
    case.k += np.array([case.offset.own(position) for position in case.positions.tolist()])
    k = twins.turned(case.run(isa)[1], "int8") + case.offset.at(case.positions)
    scale = np.abs(twins.turned(case.k - case.offset.at(case.positions), "int8")).max(-1, keepdims=True) / 127
    assert (np.abs(k - case.k) <= scale * head_dim**0.5 / 2).all()
    at_middle = case.positions % 16 == 8
    assert scale[at_middle].max() < 0.05 < np.abs(case.k).max() / 127


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("kv_type", twins.CACHED)
def test_same_bits_on_every_instruction_set(isa: str, kv_type: str, interleaved: bool):
    kv_type, _, biased = kv_type.partition("-")
    case = Case(64, 16, kv_type, norm=True, rope_dim=40, interleaved=interleaved, offset=bool(biased))
    for ours, plain in zip(case.run(isa), case.run("portable"), strict=True):
        assert ours.tobytes() == plain.tobytes()
