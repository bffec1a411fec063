"""Every bookkeeping mistake must change the null backend's output, or the control plane's tests prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig
from octavo.sampling.arrays import greedy
from octavo.types import Batch
from tests.batches import transfers

CACHE = CacheConfig(num_blocks=8, block_size=4)
VOCAB = 1000


def batch(tokens: list[int], start: int, table: list[int], **fields: Any) -> Batch:
    """The query tokens of one sequence, from position `start`, with one logit row for the last."""
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    blocks = np.array(table, np.int32)
    plain = Batch(
        token_ids=np.array(tokens, np.int32),
        positions=positions,
        slot_mapping=blocks[positions // 4] * 4 + positions % 4,
        query_starts=np.array([0, len(tokens)], np.int32),
        context_lens=np.array([start + len(tokens)], np.int32),
        block_tables=blocks[None],
        logit_rows=np.array([len(tokens) - 1], np.int32),
        targets=np.array([-1], np.int32),
        sampling=greedy(1),
    )
    return replace(plain, **fields)


def decode(damage: Callable[[NullBackend, Batch], object] = lambda backend, step: None) -> int:
    """The token after a prompt of 6 (in blocks 2 and 5), `damage` to the cache, and a decode step."""
    backend = NullBackend(CACHE, VOCAB)
    backend.run(batch([1, 2, 3, 4, 5, 6], 0, [2, 5]))
    step = batch([7], 6, [2, 5])
    damage(backend, step)
    return int(backend.run(step).token_ids[0])


def test_the_output_depends_on_content_alone_not_on_where_it_lies() -> None:
    other = NullBackend(CACHE, VOCAB)
    for start in range(7):
        token = other.run(batch([start + 1], start, [7, 0])).token_ids[0]
    assert token == decode()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda backend, step: backend.run(batch([9], 0, [5])), id="another sequence wrote into a block"),
        pytest.param(lambda backend, step: step.slot_mapping.fill(3), id="wrong slot"),
        pytest.param(lambda backend, step: step.block_tables.__setitem__((0, 0), 3), id="wrong block"),
        pytest.param(lambda backend, step: backend.transfer(transfers(copies=[(1, 5)])), id="a copy too many"),
        pytest.param(lambda backend, step: backend.transfer(transfers([(8, 9)])), id="a move too many"),
        pytest.param(lambda backend, step: step.positions.fill(5), id="wrong position"),
        pytest.param(lambda backend, step: step.token_ids.fill(8), id="wrong token"),
    ],
)
def test_every_slip_changes_the_output(damage: Callable[[NullBackend, Batch], object]) -> None:
    assert decode(damage) != decode()


def test_moves_and_then_copies_are_made_in_order() -> None:
    backend = NullBackend(CACHE, VOCAB)
    backend.run(batch([1, 2, 3, 4, 5, 6], 0, [2, 5]))
    backend.transfer(transfers([(20, 30), (30, 31), (31, 20)], [(5, 4), (4, 1)]))
    copied = backend.run(batch([7], 6, [2, 1]))
    assert copied.token_ids[0] == decode()
    assert backend.run(batch([7], 6, [2, 5])).token_ids[0] == decode()  # the source is as it was


def test_a_sequence_is_what_its_table_holds_whatever_its_positions_say() -> None:
    """Eviction inside a sequence: positions 4 and 5 are left of six, in block 5."""
    found = []
    for dropped in (0, 9):
        backend = NullBackend(CACHE, VOCAB)
        backend.run(batch([1, 2, 3, 4, 5, 6], 0, [2, 5]))
        backend.run(batch([dropped], 0, [2]))
        lens, slots, positions = (np.array([value], np.int32) for value in (3, 22, 6))
        step = batch([7], 2, [5], context_lens=lens, slot_mapping=slots, positions=positions)
        found.append(int(backend.run(step).token_ids[0]))
    assert found[0] == found[1] != decode()


def test_targets_logprobs_and_logits_agree() -> None:
    backend = NullBackend(CACHE, VOCAB)
    result = backend.run(batch([1, 2, 3], 0, [0], num_logprobs=3, want_logits=True))
    assert result.logits is not None and result.logprobs is not None and result.top_ids is not None
    assert result.top_logprobs is not None and result.ranks is not None
    expected = result.logits[0] - np.log(np.exp(result.logits[0].astype(np.float64)).sum())
    assert result.token_ids[0] == result.top_ids[0, 0] == expected.argmax() and result.ranks[0] == 1
    assert np.allclose(result.top_logprobs[0], expected[result.top_ids[0]])
    target = int(np.argsort(-expected)[7])
    scored = backend.run(batch([1, 2, 3], 0, [0], num_logprobs=0, targets=np.array([target], np.int32)))
    assert scored.token_ids[0] == target and scored.ranks is not None and scored.ranks[0] == 8
    assert scored.logprobs is not None and np.isclose(scored.logprobs[0], expected[target])


def test_injected_failures() -> None:
    backend = NullBackend(CACHE, VOCAB, nan_tokens=[3], crash_tokens=[4])
    assert not backend.run(batch([1, 3, 1], 0, [0])).finite[0]
    assert backend.run(batch([1, 2, 1], 0, [1])).finite[0]
    with pytest.raises(RuntimeError):
        backend.run(batch([4], 0, [2]))
