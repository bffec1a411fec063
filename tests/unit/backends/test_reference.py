"""The reference backend: attention, paging and storage against slow or independent computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo.backends.reference import ReferenceBackend, ReferenceOps, attend
from octavo.backends.reference_kv import Plane, QuantisedPlane
from octavo.config import CacheConfig
from octavo.ir import Attention, Model, Rope
from octavo.models.registry import load_model
from octavo.sampling.rules import logprobs
from octavo.types import F32, Batch, StepResult
from tests.batches import Row, make_batch, transfers
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf, write_tiny_hf

RNG = np.random.default_rng(2)
IDS = RNG.integers(0, 320, 45).tolist()


def backend(model: Model, dtype: str = "f32", **options: int) -> ReferenceBackend:
    return ReferenceBackend(model, CacheConfig(num_blocks=16, block_size=8, dtype=dtype), **options)


def batch(*rows: Row, **fields: object) -> Batch:
    return make_batch(rows, block_size=8, want_logits=True, **fields)


def logits(result: StepResult) -> F32:
    assert result.logits is not None
    return result.logits


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny(request.param)))


@pytest.fixture
def llama(tmp_path: Path) -> Model:
    return load_model(write_tiny_gguf(tmp_path / "m.gguf", Tiny()))


def slow_attention(q: F32, k: F32, v: F32, spec: Attention) -> F32:
    """One query, one head, one key at a time, in float64."""
    n, context = len(q), len(k)
    out = np.zeros((n, spec.heads, spec.value_dim))
    for i in range(n):
        position = context - n + i
        first = max(0, position - spec.window + 1) if spec.window else 0
        for head in range(spec.heads):
            shared = head * spec.kv_heads // spec.heads
            query = q[i].reshape(spec.heads, spec.head_dim)[head].astype(np.float64)
            scores = np.array([query @ k[j, shared] * spec.scale for j in range(first, position + 1)])
            if spec.softcap:
                scores = spec.softcap * np.tanh(scores / spec.softcap)
            p = np.exp(scores - scores.max())
            out[i, head] = sum(p[j] / p.sum() * v[first + j, shared] for j in range(len(p)))
    return out.reshape(n, -1).astype(np.float32)


@pytest.mark.parametrize("window", [0, 1, 5, 64])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("value_dim", [8, 5, 12])
def test_attention_against_loops(window: int, softcap: float, value_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.backends.reference.SCORES", 6 * 20 * 3)  # tiles of three queries
    spec = Attention(6, 2, head_dim=8, scale=0.5, window=window, softcap=softcap, value_dim=value_dim)
    q, k, v = (RNG.standard_normal(s).astype(np.float32) for s in ((7, 48), (20, 2, 8), (20, 2, value_dim)))
    np.testing.assert_allclose(attend(q, k, v, spec), slow_attention(q, k, v, spec), atol=2e-6)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("head_dim", [6, 10])
def test_rope_turns_each_pair_by_its_angle(interleaved: bool, head_dim: int, llama: Model) -> None:
    """The first six values of each head; others stay as they are."""
    rope = Rope(np.array([1.0, 0.25, 0.01], np.float32), interleaved, scale=1.5)
    ops = ReferenceOps(batch(Row([1, 2, 3], start=10)), backend(llama).cache, backend(llama).weights)
    x = RNG.standard_normal((3, 2 * head_dim)).astype(np.float32)
    turned, by_head = ops.rope(x, rope, heads=2).reshape(3, 2, head_dim), x.reshape(3, 2, head_dim)
    assert (turned[..., 6:] == by_head[..., 6:]).all()
    for t in range(3):
        for head in range(2):
            for i, freq in enumerate(rope.inv_freq):
                pair = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
                z = complex(*by_head[t, head, pair]) * np.exp(1j * (10 + t) * float(freq)) * 1.5
                np.testing.assert_allclose(turned[t, head, pair], [z.real, z.imag], atol=1e-5)


def test_chunked_prefill_is_whole_prefill(model: Model) -> None:
    whole = logits(backend(model).run(batch(Row(IDS, all_rows=True))))
    for sizes in ([1] * 45, [7, 8, 9, 21], [44, 1]):
        chunked, start, parts = backend(model), 0, []
        for size in sizes:
            parts.append(logits(chunked.run(batch(Row(IDS[start : start + size], start=start, all_rows=True)))))
            start += size
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=5e-5)


def test_mixed_batch_is_each_sequence_alone(model: Model) -> None:
    """A decode, a first and a second prefill chunk together, in scattered blocks."""
    a, b, c = IDS[:20], IDS[20:33], IDS[10:40]
    tables = ([9, 2, 14], [1, 7], [3, 15, 0, 4])
    together = backend(model)
    together.run(batch(Row(a[:19], table=tables[0]), Row(c[:11], table=tables[2])))
    rows = (
        Row(a[19:], start=19, table=tables[0]),
        Row(b, table=tables[1], all_rows=True),
        Row(c[11:], start=11, table=tables[2]),
    )
    mixed = logits(together.run(batch(*rows)))
    alone = [logits(backend(model).run(batch(Row(ids, all_rows=True)))) for ids in (a, b, c)]
    np.testing.assert_allclose(mixed, np.concatenate([alone[0][-1:], alone[1], alone[2][-1:]]), atol=5e-5)


def test_window_hides_what_is_older(tmp_path: Path) -> None:
    """One layer of window 8: a token's logits depend on itself and the seven before it, and on no other."""
    model = load_model(write_tiny_hf(tmp_path / "w", Tiny(layers=1, window=8, hf={"model_type": "mistral"})))

    def last(ids: list[int]) -> F32:
        return logits(backend(model).run(batch(Row(ids))))

    changed = [(token + 1) % 320 for token in IDS]
    np.testing.assert_array_equal(last(changed[:-8] + IDS[-8:]), last(IDS))
    assert np.abs(last(changed[:-7] + IDS[-7:]) - last(IDS)).max() > 1e-3


def test_future_tokens_do_not_matter(model: Model) -> None:
    first = logits(backend(model).run(batch(Row(IDS[:20], all_rows=True))))
    longer = logits(backend(model).run(batch(Row(IDS, all_rows=True))))
    np.testing.assert_allclose(longer[:20], first, atol=5e-5)


def test_block_copies_come_before_the_step(llama: Model) -> None:
    """Copy-on-write: block 0 is copied to block 5, where the sequence continues."""
    shared = backend(llama)
    shared.run(batch(Row(IDS[:6])))
    shared.transfer(transfers(copies=[(0, 5)]))
    copied = shared.run(batch(Row(IDS[6:8], start=6, table=[5])))
    np.testing.assert_allclose(logits(copied), logits(backend(llama).run(batch(Row(IDS[:8])))), atol=5e-5)
    other = shared.run(batch(Row(IDS[7:9], start=6, table=[0])))  # block 0 still holds the six tokens alone
    expected = backend(llama).run(batch(Row([*IDS[:6], *IDS[7:9]])))
    np.testing.assert_allclose(logits(other), logits(expected), atol=5e-5)


@pytest.mark.parametrize(("dtype", "low", "high"), [("f32", 0.0, 1e-9), ("bf16", 1e-4, 0.2), ("int8", 1e-4, 0.3)])
def test_kv_storage_rounds(dtype: str, low: float, high: float, model: Model) -> None:
    exact = logits(backend(model).run(batch(Row(IDS, all_rows=True))))
    rounded = logits(backend(model, dtype).run(batch(Row(IDS, all_rows=True))))
    assert low <= np.sqrt(np.mean((rounded - exact) ** 2)) <= high


def test_kv_planes() -> None:
    x = RNG.standard_normal((4, 2, 32)).astype(np.float32)
    x[1, 0] = 0
    slots = np.array([3, 0, 7, 5], np.int32)
    # the rounding of a rotated head is spread over all of it
    kinds = {"f32": 0.0, "bf16": 2.0**-8, "int8": 2 / 127, "int4": 2 / 15}
    for dtype, step in kinds.items():
        plane = QuantisedPlane(8, 2, 32, dtype) if "int" in dtype else Plane(8, 2, 32, dtype)
        plane.write(slots, x)
        bound = step * np.abs(x).max(axis=-1, keepdims=True) * 1.001
        assert (np.abs(plane.read(slots) - x) <= bound).all(), dtype
        plane.copy(slice(0, 4), slice(4, 8))
        np.testing.assert_array_equal(plane.read(np.array([7], np.int32)), plane.read(np.array([3], np.int32)))
    assert QuantisedPlane(8, 2, 64, "int8").nbytes == 8 * 2 * (64 + 4)
    assert QuantisedPlane(8, 2, 64, "int4").nbytes == 8 * 2 * (32 + 2 * 4)
    assert Plane(8, 2, 32, "bf16").nbytes == 8 * 2 * 32 * 2


def test_targets_logprobs_and_hidden_states(llama: Model) -> None:
    targets = np.array([*IDS[1:8], -1], np.int32)
    result = backend(llama).run(batch(Row(IDS[:8], all_rows=True), targets=targets, num_logprobs=3, want_hidden=True))
    values = logprobs(logits(result))
    assert result.token_ids.tolist() == [*IDS[1:8], int(values[-1].argmax())]
    assert result.logprobs is not None and result.top_ids is not None and result.hidden is not None
    np.testing.assert_array_equal(result.logprobs, values[np.arange(8), result.token_ids])
    np.testing.assert_array_equal(result.top_ids[:, 0], values.argmax(axis=1))
    head = ReferenceOps(batch(Row([0])), backend(llama).cache, backend(llama).weights)
    np.testing.assert_array_equal(head.logits(result.hidden, llama.weights["token_embd.weight"]), logits(result))


def test_bounded_weight_memory_gives_the_same_logits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.backends.reference.SLICE", 64 * 7)  # seven rows at a time: the last slice is shorter
    kept, bounded = backend(model), backend(model, weight_memory=20_000)
    np.testing.assert_allclose(logits(bounded.run(batch(Row(IDS)))), logits(kept.run(batch(Row(IDS)))), atol=5e-5)
    assert bounded.memory()["weights"] < 40_000 < kept.memory()["weights"]
    assert kept.memory()["kv"] == sum(2 * 16 * 8 * a.kv_heads * a.head_dim * 4 for a in model.attention)
    kept.close()
    assert kept.memory()["weights"] == 0


def test_nan_stays_with_its_sequence(llama: Model) -> None:
    """One sequence's cache has a NaN: its row is reported, and its neighbour's row is the same as alone."""
    poisoned = backend(llama)
    poisoned.run(batch(Row(IDS[:8], table=[0]), Row(IDS[8:16], table=[1])))
    poisoned.cache.layers[0][0].data[3] = np.nan
    result = poisoned.run(batch(Row([7], start=8, table=[0, 2]), Row([9], start=8, table=[1, 3])))
    assert result.finite.tolist() == [False, True]
    alone = backend(llama).run(batch(Row([*IDS[8:16], 9])))
    np.testing.assert_allclose(logits(result)[1], logits(alone)[0], atol=5e-5)
