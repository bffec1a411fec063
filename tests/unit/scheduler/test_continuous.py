"""Which tokens the scheduler puts into a step, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo.config import CacheConfig, EngineConfig
from octavo.errors import CapacityError
from octavo.kv import manager
from octavo.sampling.params import build
from octavo.sampling_params import SamplingParams
from octavo.scheduler import create
from octavo.scheduler.batch import BatchBuilder, Schedule
from octavo.scheduler.continuous import SCORED_ROWS, ContinuousScheduler
from octavo.types import Batch, Request, SequenceDelta, StepResult, Transfers

GREEDY = SamplingParams(temperature=0, max_tokens=20)


class Rig:
    """A scheduler whose sampled tokens the test chooses; by default 7."""

    def __init__(self, blocks: int = 64, block_size: int = 4, **settings: Any):
        defaults: dict[str, Any] = {"max_model_len": 200, "max_num_seqs": 8, "max_num_batched_tokens": 16}
        config = EngineConfig(block_size=block_size, **(defaults | settings))
        self.now = 0.0
        self.cache = manager.create(config, CacheConfig(blocks, block_size))
        self.scheduler: ContinuousScheduler = create(config, self.cache, lambda: self.now)
        self.builder = BatchBuilder(self.cache.tables, lambda rows: build(rows, 100))
        self.batch: Batch | None = None
        self.transfers: Transfers | None = None

    def add(self, name: str, length: int, params: SamplingParams = GREEDY, **fields: Any) -> None:
        fields.setdefault("arrival", 0.0)
        tokens = [ord(name[0]) % 100, *range(10, 9 + length)]  # no two names share a prefix
        self.scheduler.add(Request(name, tokens, params, **fields))

    def schedule(self) -> Schedule:
        self.cache.check_integrity()
        return self.scheduler.schedule()

    def run(self, plan: Schedule, tokens: list[int] | None = None) -> list[SequenceDelta]:
        self.transfers = self.cache.transfers.take()
        self.batch = batch = self.builder.build(plan)
        sampled = np.array(tokens or [7] * len(batch.targets), np.int32)
        result = StepResult(np.where(batch.targets < 0, sampled, batch.targets), np.ones(len(sampled), np.bool_))
        if batch.num_logprobs >= 0:
            result.logprobs, result.ranks = np.zeros(len(sampled), np.float32), np.ones(len(sampled), np.int32)
        deltas = self.scheduler.commit(plan, result)
        self.cache.check_integrity()
        return deltas

    def step(self, tokens: list[int] | None = None) -> list[tuple[str, int]]:
        """Runs one step; (request, query tokens) of each entry."""
        plan = self.schedule()
        if plan.entries:
            self.run(plan, tokens)
        return [(entry.seq.request.request_id, entry.num_tokens) for entry in plan.entries]


def test_decodes_go_first_and_prompts_share_what_is_left() -> None:
    rig = Rig()
    rig.add("a", 3)
    assert rig.step() == [("a", 3)]
    rig.add("long", 40, arrival=1.0)
    rig.add("b", 5, arrival=2.0)
    assert rig.step() == [("a", 1), ("long", 15)]
    assert rig.step() == [("a", 1), ("long", 15)]
    assert rig.step() == [("a", 1), ("long", 10), ("b", 5)]
    assert rig.step() == [("a", 1), ("long", 1), ("b", 1)]


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    rig = Rig(enable_chunked_prefill=False, max_model_len=24)
    for index, length in enumerate((20, 3, 2)):
        rig.add(str(index), length, SamplingParams(max_tokens=3), arrival=float(index))
    assert rig.step() == [("0", 20), ("1", 3)]  # the budget is the longest context, 24
    assert rig.step() == [("0", 1), ("1", 1), ("2", 2)]


def test_max_num_seqs_bounds_who_runs() -> None:
    rig = Rig(max_num_seqs=2)
    for index in range(3):
        rig.add(str(index), 2, SamplingParams(temperature=0, max_tokens=2), arrival=float(index))
    assert [rig.step() for _ in range(4)] == [[("0", 2), ("1", 2)], [("0", 1), ("1", 1)], [("2", 2)], [("2", 1)]]
    assert not rig.scheduler.has_work


def test_priority_decides_who_is_admitted_and_who_is_preempted() -> None:
    rig = Rig(blocks=8)
    rig.add("low", 7, priority=5, arrival=0.0)
    rig.add("high", 7, priority=0, arrival=1.0)
    assert rig.step() == [("high", 7), ("low", 7)]
    rig.add("urgent", 7, priority=-1, arrival=2.0)
    seen = []
    while rig.scheduler.has_work:
        seen.append([name for name, _ in rig.step()])
    assert rig.scheduler.stats.preemptions >= 1
    last = {name: max(i for i, names in enumerate(seen) if name in names) for name in ("urgent", "high", "low")}
    assert last["urgent"] < last["high"] < last["low"]
    assert any("high" in names and "low" not in names for names in seen[: last["urgent"]])


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    rig = Rig(blocks=10)
    rig.add("first", 12, SamplingParams(temperature=0, max_tokens=8))
    rig.step()
    rig.add("large", 33, SamplingParams(temperature=0, max_tokens=1), arrival=1.0)
    rig.add("small", 1, SamplingParams(temperature=0, max_tokens=1), arrival=2.0)
    names = [name for _ in range(12) for name, _ in rig.step()]
    assert names.index("large") < names.index("small")


def test_deadlines_end_running_and_waiting_requests() -> None:
    rig = Rig(max_num_seqs=1)
    rig.add("runs", 3, deadline=5.0)
    rig.add("waits", 3, SamplingParams(n=2), deadline=4.0, arrival=1.0)
    rig.add("free", 3, arrival=2.0)
    rig.step()
    rig.now = 4.5
    finished = rig.schedule().finished
    assert [(d.request_id, d.index, d.finish_reason) for d in finished] == [
        ("waits", 0, "deadline"),
        ("waits", 1, "deadline"),
    ]
    rig.now = 5.0
    assert rig.step() == [("free", 3)]
    assert rig.scheduler.stats.finished["deadline"] == 3


def test_rejected_drafts_are_taken_back() -> None:
    rig = Rig()
    rig.add("a", 6)
    rig.step()
    (seq,) = rig.scheduler.decoding()
    seq.drafts = [1, 2, 3]
    plan = rig.schedule()
    (delta,) = rig.run(plan, [1, 9, 3, 4])
    assert delta.token_ids == [1, 9]
    assert rig.batch is not None and rig.batch.token_ids.tolist() == [7, 1, 2, 3]
    assert rig.batch.positions.tolist() == [6, 7, 8, 9] and rig.batch.logit_rows.tolist() == [0, 1, 2, 3]
    assert (seq.num_computed_tokens, len(seq.token_ids), seq.drafts) == (8, 9, [])
    slots = rig.batch.slot_mapping.tolist()
    rig.step()
    assert rig.batch.slot_mapping.tolist() == slots[2:3]  # the first rejected draft's slot is written again


def test_a_stop_inside_an_accepted_run_ends_it() -> None:
    rig = Rig()
    rig.add("a", 6, eos_token_ids=(2,))
    rig.step()
    (seq,) = rig.scheduler.decoding()
    seq.drafts = [1, 2, 3]
    (delta,) = rig.run(rig.schedule(), [1, 2, 3, 4])
    assert (delta.token_ids, delta.finish_reason, seq.finish_reason) == ([1, 2], "stop", "stop")


def test_drafts_are_cut_at_max_tokens_and_at_the_budget() -> None:
    rig = Rig(max_num_batched_tokens=5)
    for index in range(2):
        rig.add(str(index), 2, SamplingParams(temperature=0, max_tokens=4 if index else 20), arrival=float(index))
    rig.step()
    for seq in rig.scheduler.decoding():
        seq.drafts = [1] * 9
    plan = rig.schedule()
    assert [entry.num_drafts for entry in plan.entries] == [3, 0]  # both have their token; 3 of 5 are left for drafts
    rig.run(plan)
    second = rig.scheduler.decoding()[1]
    second.drafts = [1] * 9
    counts = [entry.num_drafts for entry in rig.schedule().entries]
    assert counts == [0, 1]  # 2 of 4 tokens made: one draft and one more


def test_drafts_give_way_before_anyone_is_preempted() -> None:
    rig = Rig(blocks=4, max_model_len=16)
    rig.add("a", 7, SamplingParams(temperature=0, max_tokens=9))
    rig.add("b", 3, SamplingParams(temperature=0, max_tokens=2), arrival=1.0)
    rig.step()
    first, _ = rig.scheduler.decoding()
    first.drafts = [1] * 6
    counts = [(entry.seq.request.request_id, entry.num_drafts) for entry in rig.schedule().entries]
    assert counts == [("a", 0), ("b", 0)]
    assert rig.scheduler.stats.preemptions == 0


@pytest.mark.parametrize("prefix", [True, False])
def test_scored_prompts_go_in_small_chunks_and_once(prefix: bool) -> None:
    rig = Rig(max_num_batched_tokens=150, blocks=200, enable_prefix_caching=prefix)
    rig.add("a", 100, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    plan = rig.schedule()
    (entry,) = plan.entries
    assert entry.num_tokens == SCORED_ROWS and not entry.samples
    (delta,) = rig.run(plan)
    assert delta.prompt_logprobs is not None and len(delta.prompt_logprobs) == SCORED_ROWS and not delta.token_ids
    rig.scheduler._queue.preempt(rig.scheduler._queue.running[0])
    plan = rig.schedule()
    assert plan.entries[0].seq.num_computed_tokens == (SCORED_ROWS if prefix else 0)
    (delta,) = rig.run(plan)
    assert delta.prompt_logprobs is not None and len(delta.prompt_logprobs) == 99 - SCORED_ROWS
    assert len(delta.token_ids) == 1 and delta.finished


def test_siblings_share_the_prompt_s_row_and_blocks() -> None:
    rig = Rig()
    rig.add("a", 6, SamplingParams(temperature=1, n=3, max_tokens=3), seed=9)
    deltas = rig.run(rig.schedule(), [1, 2, 3])
    assert rig.batch is not None and rig.batch.logit_rows.tolist() == [5, 5, 5]
    assert len(set(rig.batch.sampling.seeds.tolist())) == 3
    assert [delta.token_ids for delta in deltas] == [[1], [2], [3]]
    plan = rig.schedule()
    rig.run(plan)
    assert rig.transfers is not None and len(rig.transfers.moves) == 0
    sources = {source for source, _ in rig.transfers.copies.tolist()}
    assert len(rig.transfers.copies) == 2 and len(sources) == 1  # the last holder of the partial block writes in place
    tables = [entry.seq.block_table for entry in plan.entries]
    assert len({table[0] for table in tables}) == 1 and len({table[1] for table in tables}) == 3


def test_siblings_without_room_to_run_wait_and_compute_for_themselves() -> None:
    rig = Rig(max_num_seqs=1)
    rig.add("a", 6, SamplingParams(temperature=1, n=2, max_tokens=2))
    assert rig.step() == [("a", 6)]
    assert rig.step() == [("a", 1)]  # ends the first
    assert rig.step() == [("a", 2)]  # 4 of 6 tokens come from the prefix cache
    assert rig.step() == [("a", 1)]
    assert not rig.scheduler.has_work


ARRAYS = (
    *("token_ids", "positions", "slot_mapping", "query_starts"),
    *("context_lens", "block_tables", "logit_rows", "targets"),
)


def test_all_arrays_are_contiguous_and_of_their_type() -> None:
    rig = Rig()
    rig.add("a", 5)
    rig.step()
    rig.add("b", 30, arrival=1.0)
    for _ in range(4):  # mixed steps, then decodes alone
        rig.step()
        assert rig.batch is not None
        for name in ARRAYS:
            array = getattr(rig.batch, name)
            assert array.dtype == np.int32 and array.flags.c_contiguous, name


def test_a_batch_s_arrays_say_the_same_as_its_chunks() -> None:
    rig = Rig()
    rig.add("a", 5)
    rig.step()
    rig.add("b", 9, arrival=1.0)
    plan = rig.schedule()
    starts = [entry.seq.num_computed_tokens for entry in plan.entries]
    rig.run(plan)
    batch = rig.batch
    assert batch is not None and batch.query_starts.tolist() == [0, 1, 10]
    assert batch.positions.tolist() == [5, *range(9)] and starts == [5, 0]
    assert batch.context_lens.tolist() == [6, 9]
    for row, position in enumerate(batch.positions.tolist()):
        table = batch.block_tables[0 if row == 0 else 1].tolist()
        assert batch.slot_mapping[row] == table[position // 4] * 4 + position % 4


def test_a_request_over_capacity_leaves_nothing_behind() -> None:
    rig = Rig(blocks=2)
    with pytest.raises(CapacityError):
        rig.add("a", 50)
    assert not rig.scheduler.has_work and rig.schedule().entries == []
