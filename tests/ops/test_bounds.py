"""A value out of range fails the step before anything is written, with an error that names the value."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from octavo import _native
from octavo.backends.cpu.backend import CpuBackend
from octavo.config import CacheConfig
from octavo.models.registry import build_model
from octavo.sampling.arrays import build
from octavo.types import Batch, SamplingArrays, Sequence, Transfers
from octavo.weights.gguf import open_gguf
from tests.batches import Row, make_batch, transfers
from tests.tiny import Tiny, write_tiny_gguf
from tests.unit.sampling.rows import sequence

VOCAB, BLOCKS, BLOCK, CONTEXT = 320, 8, 16, 100
SLOTS = BLOCKS * BLOCK
OUT = [-(2**31), -2, 2**31 - 1]  # out of every range


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> CpuBackend:
    model = build_model(open_gguf(write_tiny_gguf(tmp_path_factory.mktemp("bounds") / "m.gguf", Tiny(vocab=VOCAB))))
    cache = CacheConfig(BLOCKS, BLOCK, "f32")
    return CpuBackend(model, cache, threads=1, max_tokens=64, max_seqs=4, max_context=CONTEXT)


def batch() -> Batch:
    """A prompt of 20 tokens, a draft tree of three nodes after token 17, and a decode; every array has entries."""
    rows = [
        Row(range(20), table=(0, 1)),
        Row([1, 2, 3, 4], start=17, table=(2, 3), all_rows=True),
        Row([5], start=32, table=(4, 5, 6)),
    ]
    edits = {"repetition_penalty": 1.1, "logit_bias": {7: 1.0, 9: 2.0}, "allowed_token_ids": (7, 8, 9)}
    plain = sequence([1, 2], vocab=VOCAB, temperature=0.5)
    edited: list[Sequence] = [sequence([3, 4, 5], vocab=VOCAB, **edits) for _ in range(2)]
    parents = np.full(25, -1, np.int32)
    parents[21:24] = 20, 20, 21
    return make_batch(
        rows,
        sampling=build([(edited[0], 3), *[(plain, 2)] * 4, (edited[1], 3)], VOCAB),
        targets=np.array([-1, 5, -1, -1, -1, -1], np.int32),
        parents=parents,
    )


def attempt(backend: CpuBackend, made: Batch | Transfers) -> str:
    """Returns the error's message. Checks that the cache holds the same bytes as before."""
    memory = _native.ops.kv_memory(backend._kv)
    before = memory.copy()
    with pytest.raises(ValueError) as error:
        backend.run(made) if isinstance(made, Batch) else backend.transfer(made)
    assert (memory == before).all(), "something was written"
    return str(error.value)


def test_what_is_in_range_runs_and_writes(backend: CpuBackend) -> None:
    memory = _native.ops.kv_memory(backend._kv)
    memory[:] = 0
    result = backend.run(batch())
    assert result.finite.all() and result.token_ids[1] == 5
    assert memory.any()


# array, place, and the first values that are too low and too high for it
ENTRIES: list[tuple[str, int, int, int]] = [
    ("token_ids", 24, -1, VOCAB),
    ("slot_mapping", 0, -1, SLOTS),
    ("query_starts", 0, -1, 1),
    ("query_starts", 1, 0, 25),
    ("query_starts", 3, 24, 26),
    ("context_lens", 0, 19, 49),  # fewer than its query tokens; more than three blocks hold
    ("logit_rows", 5, -1, 25),
    ("targets", 0, -2, VOCAB),
    ("parents", 22, -2, 22),  # 22 is the node itself
    ("parents", 22, 19, 24),  # a row of the sequence before, and of the one after
]


@pytest.mark.parametrize(("name", "place", "low", "high"), ENTRIES)
def test_each_entry_has_a_range(backend: CpuBackend, name: str, place: int, low: int, high: int) -> None:
    for value in (low, high, *OUT):
        made = batch()
        array = getattr(made, name).copy()
        array[place] = value
        wrong = replace(made, **{name: array})
        assert re.search(rf"{name}\[\d+\] is -?\d+: must be", attempt(backend, wrong))


@pytest.mark.parametrize("value", [-1, BLOCKS, *OUT])
def test_only_blocks_that_the_context_reaches_are_read(backend: CpuBackend, value: int) -> None:
    made = batch()
    made.block_tables[1, 2] = value  # two blocks hold its 21 tokens
    backend.run(made)
    made.block_tables[2, 2] = value
    assert attempt(backend, made) == f"block_tables[2][2] is {value}: must be from 0 to {BLOCKS - 1}"


def test_a_context_must_fit_the_plan(backend: CpuBackend) -> None:
    fits, longer = (make_batch([Row([1], start=n - 1, table=[0] * 7)]) for n in (CONTEXT, CONTEXT + 1))
    backend.run(fits)
    assert attempt(backend, longer) == f"context_lens[0] is {CONTEXT + 1}: must be from 1 to {CONTEXT}"


def test_a_sequence_has_a_token(backend: CpuBackend) -> None:
    made = batch()
    made.query_starts[1] = 0
    assert "query_starts[1] is 0" in attempt(backend, made)


@pytest.mark.parametrize(("name", "limit"), [("copies", BLOCKS), ("moves", SLOTS)])
def test_transfers_stay_in_the_pool(backend: CpuBackend, name: str, limit: int) -> None:
    for value in (-1, limit, *OUT):
        for pair in ((0, value), (value, 0)):
            pairs = {"moves": [(112, 113)], "copies": [(7, 0)]}
            pairs[name].append(pair)
            told = attempt(backend, transfers(**pairs))
            assert f"{name}[{2 + pair.index(value)}] is {value}: must be from 0 to {limit - 1}" in told


SAMPLING: list[tuple[str, int, int, int]] = [
    ("penalty_starts", 0, -1, 1),
    ("penalty_starts", 3, 2, 7),
    ("penalty_tokens", 0, -1, VOCAB),
    ("bias_starts", 0, -1, 1),
    ("bias_starts", 3, 1, 5),
    ("bias_tokens", 3, -1, VOCAB),
    ("mask_rows", 0, -2, 2),
]


@pytest.mark.parametrize(("name", "place", "low", "high"), SAMPLING)
def test_sampling_entries_have_ranges(backend: CpuBackend, name: str, place: int, low: int, high: int) -> None:
    for value in (low, high, *OUT):
        made = batch()
        array = getattr(made.sampling, name).copy()
        array[place] = value
        wrong = replace(made, sampling=replace(made.sampling, **{name: array}))
        assert re.search(rf"{name}\[\d+\] is -?\d+: must be", attempt(backend, wrong))


def _short_mask(arrays: SamplingArrays) -> SamplingArrays:
    return replace(arrays, masks=arrays.masks[:, :-1].copy())


def _short_tokens(arrays: SamplingArrays) -> SamplingArrays:
    return replace(arrays, bias_tokens=arrays.bias_tokens[:-1])


def _long_starts(arrays: SamplingArrays) -> SamplingArrays:
    return replace(arrays, penalty_starts=arrays.penalty_starts + np.arange(7, dtype=np.int32))


@pytest.mark.parametrize(
    ("shorten", "message"),
    [
        (_short_mask, "masks needs a bit for each token"),
        (_short_tokens, "bias_tokens has the wrong length"),
        (_long_starts, "penalty_tokens has the wrong length"),
    ],
)
def test_sampling_arrays_are_long_enough(
    backend: CpuBackend, shorten: Callable[[SamplingArrays], SamplingArrays], message: str
) -> None:
    made = batch()
    assert attempt(backend, replace(made, sampling=shorten(made.sampling))) == message


def test_an_end_that_only_the_tokenizer_knows_is_not_written(backend: CpuBackend) -> None:
    """`min_tokens` bans the end-of-sequence token. If the tokenizer has more entries than the model has rows, the
    token's id may lie far behind the logits."""
    end = 2999
    banned = sequence([1, 2, 3], vocab=VOCAB, eos=(end,), min_tokens=4, temperature=0.0)
    made = make_batch([Row([1, 2, 3])], sampling=build([(banned, 3)], VOCAB))
    assert attempt(backend, made) == f"bias_tokens[0] is {end}: must be from 0 to {VOCAB - 1}"


def test_the_largest_weight_has_a_size() -> None:
    """A file may claim any shape; its bytes are compared with this size."""
    sixteen_rows = _native.packed_bytes("Q8_0", 16, 256)
    assert _native.packed_bytes("Q8_0", 2**31 - 1, 2**31 - 32) == sixteen_rows * (2**31 // 16) * (2**31 // 256)
    for rows, columns in ((0, 64), (64, 0), (-1, 64)):
        with pytest.raises(ValueError, match="rows and columns"):
            _native.packed_bytes("Q8_0", rows, columns)
