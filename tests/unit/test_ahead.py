"""One step ahead, every request gets what it gets from the synchronous engine."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo import LLM
from octavo.ahead import AheadEngine, create
from octavo.assembly import engine as assembly
from octavo.backends.base import Backend, BackendLost
from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.types import I32, U32, Batch, Request, Sequence, StepResult
from tests.tiny import write_tiny_gguf
from tests.unit.control import VOCAB, Answer, Answers, RandomDrafts, collect, drain, prompt, request
from tests.unit.delayed import Delayed, Late

NAN, CRASH = (40, 41), (42, 43, 44)  # tokens
EOS = tuple(range(25))
GREEDY = SamplingParams(temperature=0, max_tokens=12)


class Edited(NullBackend):
    """The null backend, but every edit of a row's logits changes its token. So edits made from wrong tokens show."""

    def _sample(self, batch: Batch, best: I32) -> I32:
        sampling, chosen = batch.sampling, super()._sample(batch, best).astype(np.int64)
        if sampling.plain_greedy:
            return chosen.astype(np.int32)
        for row in range(len(chosen)):
            seen = slice(sampling.penalty_starts[row], sampling.penalty_starts[row + 1])
            edits = slice(sampling.bias_starts[row], sampling.bias_starts[row + 1])
            chosen[row] += (sampling.penalty_tokens[seen] * (1 + sampling.penalty_counts[seen].astype(np.int64))).sum()
            chosen[row] += 7 * np.unique(sampling.bias_tokens[edits]).sum()
            if sampling.mask_rows[row] >= 0:
                chosen[row] += int(sampling.masks[sampling.mask_rows[row]].sum()) % 1000
        return (chosen % VOCAB).astype(np.int32)


class Successors:
    """A grammar whose next token must be near the last one."""

    stopped = False

    def matcher(self) -> Successors:
        return self

    def mask(self, seq: Sequence, position: int) -> U32:
        words = np.zeros(-(-VOCAB // 32), np.uint32)
        words[seq.token_ids[position - 1] // 32] = 0xFFFF
        return words


def build(
    ahead: bool,
    *,
    blocks: int = 64,
    block_size: int = 4,
    before: Callable[[Batch], object] = lambda batch: None,
    clock: Callable[[], float] = lambda: 0.0,
    faults: bool = True,
    **settings: Any,
) -> tuple[Engine, Delayed]:
    """An engine on a device that lags behind, one step ahead or not."""
    defaults: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 8, "max_num_batched_tokens": 32}
    config = EngineConfig(block_size=block_size, async_scheduling=ahead, **(defaults | settings))
    cache = CacheConfig(blocks, block_size)
    device = Delayed(Edited(cache, VOCAB, *((NAN, CRASH) if faults else ())), before)
    return create(device, config, cache, VOCAB, clock=clock), device


SETTINGS: list[dict[str, Any]] = [
    {"blocks": 200},
    {"blocks": 200, "block_size": 16, "max_num_batched_tokens": 64},
    {"blocks": 19},
    {"blocks": 100, "block_size": 1},
    {"blocks": 60, "max_num_seqs": 3},
    {"blocks": 22, "max_num_batched_tokens": 6},
    {"blocks": 24, "target_itl": "auto", "policy": "deadline"},
    {"blocks": 120, "enable_chunked_prefill": False},
    {"blocks": 120, "scheduler": "static", "enable_prefix_caching": False},
    {"blocks": 160, "kv_cache": "contiguous", "max_num_seqs": 4},
]
ODD: list[dict[str, Any]] = [
    {"logprobs": 2},
    {"prompt_logprobs": 0, "logprobs": 0},
    {"presence_penalty": 1.0},
    {"repetition_penalty": 1.1, "frequency_penalty": 0.3},
]


def crowd(rng: random.Random, count: int = 10) -> list[Request]:
    """Requests of every kind. In half of the crowds all of them can run ahead, or nearly all."""
    made, odd = [], rng.choice([0.0, 0.05, 0.3])
    for index in range(count):
        params: dict[str, Any] = {
            "temperature": rng.choice([0.0, 0.0, 0.7]),
            "max_tokens": rng.choice([0, 1, 2, 5, 12, 25, 40]),
            "n": rng.choice([1, 1, 1, 1, 3]),
            "ignore_eos": rng.random() < 0.4,
            "stop_token_ids": rng.choice([(), tuple(range(30, 40))]),
            "logit_bias": rng.choice([{}, {}, {5: 2.0}]),
            "allowed_token_ids": rng.choice([None, None, None, (1, 2, 3)]),
        }
        params["min_tokens"] = rng.choice([0, 0, min(3, params["max_tokens"])])
        if rng.random() < 2 * odd:
            params |= rng.choice(ODD[:2])
        if rng.random() < odd:
            params |= rng.choice(ODD[2:])
        fields: dict[str, Any] = {
            "seed": index,
            "arrival": float(index),
            "priority": rng.choice([0, 0, 1]),
            "deadline": rng.choice([None, None, None, rng.uniform(0, 40)]),
            "eos_token_ids": EOS,
            "bad_word_ids": tuple((token, 5) for token in range(0, VOCAB, 9)) if rng.random() < odd else (),
            "grammar": Successors() if rng.random() < odd else None,
            "pooling": rng.choice(["mean", "last"]) if rng.random() < 0.1 else None,
        }
        tokens = prompt(rng.randint(1, 20), seed=rng.randint(0, 3)) + prompt(rng.randint(0, 12), seed=index + 100)
        tokens += rng.choices([NAN[0], CRASH[0], 60], [0.02, 0.02, 0.96])
        made.append(request(f"r{index}", tokens, SamplingParams(**params), **fields))
    return made


@dataclass
class Life:
    """What happens around a crowd: arrivals, aborts, the clock, a device that fails now and then.

    A client aborts when it has seen some number of tokens, or a token that it takes for a stop string, or at random.
    """

    seed: int
    ahead: bool
    answers: Answers = field(default_factory=lambda: defaultdict(Answer))
    now: float = 0.0

    def __post_init__(self) -> None:
        plan = random.Random(self.seed)
        self.settings = plan.choice(SETTINGS)
        self.requests = crowd(plan)
        self.patience = {item.request_id: plan.choice([0, 3, 8] + [999] * 7) for item in self.requests}
        self.stop_strings = {item.request_id for item in self.requests if plan.random() < 0.3}
        self.whim = {item.request_id for item in self.requests if plan.random() < 0.05}
        self.flaky = plan.choice([0.0, 0.0, 0.05])
        self.rng = random.Random(self.seed + 1)
        self.engine, self.device = build(self.ahead, before=self.fail, clock=lambda: self.now, **self.settings)

    def fail(self, batch: Batch) -> None:
        """A batch of several sequences may fail although each of them runs alone."""
        if len(batch.context_lens) > 1 and self.rng.random() < self.flaky:
            raise RuntimeError("bad luck")

    def live(self) -> Life:
        waiting, rng, busy = self.requests[::-1], self.rng, self.engine
        sequences: list[Sequence] = []
        for _ in range(5000):
            while waiting and rng.random() < 0.4:
                sequences += busy.add(waiting.pop())
            if not waiting and not busy.has_work:
                break
            self.now += rng.choice([0.1, 1.0])
            collect(self.answers, busy.step())
            busy.cache.check_integrity()
            self.abort()
        assert not busy.has_work and busy.cache.usage == 0
        assert all(seq.kv_length == 0 and min(seq.token_ids) >= 0 for seq in sequences)
        return self

    def abort(self) -> None:
        for item in self.requests:
            answers = [self.answers[item.request_id, index] for index in range(item.params.n)]
            tokens = sum(len(answer.token_ids) for answer in answers)
            bored = tokens >= self.patience[item.request_id] > 0
            found = item.request_id in self.stop_strings and any(token % 13 == 0 for token in answers[0].token_ids)
            if bored or found or (item.request_id in self.whim and self.rng.random() < 0.1):
                collect(self.answers, self.engine.abort(item.request_id))
                self.engine.cache.check_integrity()

    def is_certain(self, item: Request) -> bool:
        """Whether its answer depends on nothing but itself. Where a deadline falls, or how many tokens the siblings of
        an aborted or failed sequence have, depends on the order of the steps."""
        reasons = {self.answers[item.request_id, index].finish_reason for index in range(item.params.n)}
        shared = item.params.n > 1 and reasons & {"abort", "error"}
        return not (shared or item.request_id in self.whim or item.deadline is not None)


def compare(one: Life, other: Life) -> None:
    for item in one.requests:
        for index in range(item.params.n):
            key = item.request_id, index
            mine, yours = one.answers[key], other.answers[key]
            if one.is_certain(item) and other.is_certain(item):
                if mine.finish_reason == "error":  # what a prompt gave before it failed depends on its chunks
                    mine, yours = (replace(answer, hidden=[], prompt_logprobs=[]) for answer in (mine, yours))
                assert mine == yours, f"seed {one.seed}, {key}"
            for name in ("token_ids", "logprobs", "prompt_logprobs", "hidden"):
                pairs = zip(getattr(one.answers[key], name), getattr(other.answers[key], name), strict=False)
                assert all(a == b for a, b in pairs), f"seed {one.seed}, {key}"


def try_schedules(seeds: range) -> Counter[str]:
    """Each of these random lives, synchronous and one step ahead. Returns what happened, ahead."""
    totals: Counter[str] = Counter()
    for seed in seeds:
        plain, ahead = Life(seed, False).live(), Life(seed, True).live()
        assert type(plain.engine) is Engine and type(ahead.engine) is AheadEngine and plain.device.ahead == 0
        compare(plain, ahead)
        stats = ahead.engine.stats
        totals.update(stats.finished)
        totals.update(batches=ahead.device.batches, ahead=ahead.device.ahead, preemptions=stats.preemptions)
        totals.update(failures=stats.backend_errors, hits=stats.prefix_hits)
        totals.update(forks=sum(item.params.n > 1 for item in ahead.requests))
    return totals


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_random_schedules_give_the_same_answers() -> None:
    totals = try_schedules(range(20))
    assert totals["ahead"] > 0.3 * totals["batches"], totals
    kinds = ("stop", "length", "abort", "deadline", "error", "preemptions", "failures", "hits", "forks")
    assert all(totals[kind] for kind in kinds), totals


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_a_thousand_random_schedules_give_the_same_answers(first: int) -> None:
    try_schedules(range(first, first + 100))


class Machine(RuleBasedStateMachine):
    """A client and an engine one step ahead. At the end each answer is what its request gets alone, or begins it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        settings = {"blocks": 24, "max_num_batched_tokens": 16, "faults": False}
        self.engine, self.device = build(True, clock=lambda: self.now, **settings)
        self.answers: Answers = defaultdict(Answer)
        self.requests: list[Request] = []

    @rule(length=st.integers(1, 20), n=st.sampled_from([1, 1, 3]), seed=st.integers(0, 3), most=st.integers(0, 30))
    def add(self, length: int, n: int, seed: int, most: int) -> None:
        params = SamplingParams(
            n=n,
            temperature=0.5,
            max_tokens=most,
            logprobs=1 if seed == 1 else None,
            presence_penalty=float(most == 13),
        )
        name, deadline = str(len(self.requests)), self.now + 9 if seed == 2 else None
        item = request(name, prompt(length, seed), params, seed=seed, eos_token_ids=EOS, deadline=deadline)
        self.requests.append(item)
        self.engine.add(item)

    @precondition(lambda self: self.engine.has_work)
    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.now += 1
            collect(self.answers, self.engine.step())
            self.engine.cache.check_integrity()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        collect(self.answers, self.engine.abort(data.draw(st.sampled_from(self.requests)).request_id))

    @invariant()
    def nothing_is_assumed_between_steps(self) -> None:
        self.engine.cache.check_integrity()
        for seq in self.engine.cache.tables.rows:
            assert min(seq.token_ids) >= 0

    def teardown(self) -> None:
        collect(self.answers, [delta for _ in range(3000) if self.engine.has_work for delta in self.engine.step()])
        assert not self.engine.has_work and self.engine.cache.usage == 0
        for item in self.requests:
            alone = drain(build(False, faults=False)[0], [replace(item, deadline=None)])
            for index in range(item.params.n):
                mine, whole = self.answers[item.request_id, index], alone[item.request_id, index]
                cut = mine.finish_reason in ("abort", "deadline", "error")
                assert mine.token_ids == whole.token_ids[: len(mine.token_ids)] if cut else mine == whole


Machine.TestCase.settings = hypothesis_settings(max_examples=8, stateful_step_count=20, phases=(Phase.generate,))
TestMachine = Machine.TestCase


def test_the_next_step_is_submitted_before_a_result_is_asked_for() -> None:
    engine, device = build(True)
    drain(engine, [request("a", prompt(5), SamplingParams(temperature=0, max_tokens=4))])
    order = ["submit 0", "submit 1", "result 0", "submit 2", "result 1", "submit 3", "result 2", "result 3"]
    assert device.log == order  # the length is known, so no step is wasted


def test_a_stopped_sequence_costs_one_row_and_its_blocks_are_given_back() -> None:
    free = drain(build(False)[0], [request("a", prompt(6))])["a", 0].token_ids
    engine, device = build(True)
    answers = drain(engine, [request("a", prompt(6), GREEDY, eos_token_ids=(free[4],))])
    assert answers["a", 0].token_ids == free[:5] and device.batches == 6
    assert engine.cache.usage == 0


AHEAD: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "top_p": 0.9},
    {"logprobs": 3},
    {"prompt_logprobs": 1},
    {"min_tokens": 3, "stop_token_ids": (3,)},
    {"logit_bias": {5: 1.0}},
    {"allowed_token_ids": (1, 2, 3)},
]
WAITING: list[dict[str, Any]] = [{"presence_penalty": 1}, {"frequency_penalty": 1}, {"repetition_penalty": 1.5}]


@pytest.mark.parametrize("params", AHEAD, ids=str)
def test_rows_that_need_no_token_on_the_host_run_ahead(params: dict[str, Any]) -> None:
    item = request("a", prompt(40), SamplingParams(**({"temperature": 0, "max_tokens": 9} | params)))
    engine, device = build(True)
    assert drain(engine, [item]) == drain(build(False)[0], [item])
    assert (device.batches, device.ahead) == (10, 9)  # the prompt takes two


@pytest.mark.parametrize(("params", "fields"), [(entry, {}) for entry in WAITING] + [
    ({}, {"bad_word_ids": ((3, 4),)}),
    ({}, {"grammar": Successors()}),
], ids=lambda entry: " ".join(entry) or "none")  # fmt: skip
def test_rows_that_need_their_token_on_the_host_wait(params: dict[str, Any], fields: dict[str, Any]) -> None:
    item = request("a", prompt(40), SamplingParams(temperature=0, max_tokens=9, **params), **fields)
    engine, device = build(True)
    assert drain(engine, [item]) == drain(build(False)[0], [item])
    assert (device.batches, device.ahead) == (10, 1)  # the second chunk of the prompt
    device.ahead = 0
    drain(engine, [item, request("b", prompt(40, 1), SamplingParams(temperature=0, max_tokens=30))])
    assert 15 < device.ahead < 25, "the rest runs ahead once nobody needs a token"


def test_the_first_step_of_several_answers_waits_and_no_other() -> None:
    item = request("a", prompt(10), SamplingParams(n=3, temperature=1, max_tokens=8))
    engine, device = build(True)
    assert drain(engine, [item]) == drain(build(False)[0], [item])
    assert (device.batches, device.ahead) == (8, 6)


def test_drafts_make_every_step_synchronous_and_may_be_switched() -> None:
    item = request("a", prompt(10), SamplingParams(temperature=0, max_tokens=40))
    truth = drain(build(False)[0], [item])
    engine, device = build(True)
    answers: Answers = defaultdict(Answer)
    engine.add(item)
    (other,) = engine.add(request("other", prompt(10, 1), SamplingParams(temperature=0, max_tokens=40)))
    for proposer in (None, RandomDrafts(truth, 0.9), None):
        engine.speculate(proposer)
        if proposer is not None:  # a step of two is in flight
            known = list(other.token_ids)
            engine.abort("other")
        before = device.ahead
        for _ in range(5):
            collect(answers, engine.step())
        assert (device.ahead > before) == (proposer is None)
    while engine.has_work:
        collect(answers, engine.step())
    assert answers["a", 0] == truth["a", 0] and engine.stats.accepted_tokens > 0
    assert other.token_ids == known


def test_a_preemption_waits_for_the_result() -> None:
    items = [request(f"r{i}", prompt(9, i), SamplingParams(temperature=0, max_tokens=40)) for i in range(4)]
    engine, device = build(True, blocks=20, enable_prefix_caching=False)
    assert drain(engine, items) == drain(build(False)[0], items)
    assert engine.stats.preemptions > 0 and device.ahead > device.batches / 2


def test_a_plan_that_would_preempt_runs_nobody() -> None:
    """Not the others either: the sequence without a block would wait for as long as they run ahead."""
    sizes: list[int] = []
    engine, device = build(True, blocks=9, before=lambda batch: sizes.append(len(batch.context_lens)))
    for index in range(2):
        engine.add(request(f"r{index}", prompt(4, index), SamplingParams(temperature=0, max_tokens=24, logprobs=0)))
    while not engine.stats.preemptions:
        engine.step()
    assert sizes == [2] * (len(sizes) - 1) + [1]
    assert device.ahead == device.batches - 2, "all but the first one and the one with the preemption"


def test_a_conversation_s_second_turn_finds_all_blocks_of_the_first() -> None:
    engine, _ = build(True, max_num_batched_tokens=128)
    first = drain(engine, [request("a", prompt(30), SamplingParams(temperature=0, max_tokens=11))])["a", 0]
    (second,) = engine.add(request("b", prompt(30) + first.token_ids + prompt(5, 2)))
    engine.step()
    assert second.num_cached_tokens == 40


def test_blocks_of_a_step_in_flight_have_no_key_yet() -> None:
    """A prompt whose last chunk turns out not to be finite must not be found by a request that came meanwhile."""
    tokens = [*prompt(18), NAN[0], *prompt(13, 1)]
    engine, _ = build(True, max_num_batched_tokens=16)
    answers: Answers = defaultdict(Answer)
    engine.add(request("bad", tokens))
    collect(answers, engine.step())  # the first chunk is committed, the one with NAN in flight
    (other,) = engine.add(request("other", [*tokens, 7]))
    while engine.has_work:
        collect(answers, engine.step())
        engine.cache.check_integrity()
    assert answers["bad", 0].finish_reason == "error" and other.num_cached_tokens <= 16


def test_a_request_that_waits_for_a_cached_prefix_is_admitted_when_it_is_there() -> None:
    engine, _ = build(True, blocks=14)
    engine.add(request("a", prompt(32), SamplingParams(temperature=0, max_tokens=16)))
    (other,) = engine.add(request("b", prompt(32)))
    for _ in range(4):
        assert not any(delta.finished for delta in engine.step())
    assert other.num_cached_tokens == 28


def test_an_abort_drops_what_is_in_flight_and_the_engine_goes_on() -> None:
    engine, _ = build(True)
    engine.add(request("a", prompt(6)))
    engine.step()
    assert [delta.finish_reason for delta in engine.abort("a")] == ["abort"]
    assert not engine.has_work and engine.cache.usage == 0
    item = request("b", prompt(7, 1))
    assert drain(engine, [item]) == drain(build(False)[0], [item])


def fail_at(*numbers: int, error: Exception) -> Callable[[Batch], None]:
    """Raises when these batches run, counted from 0."""
    count = iter(range(10_000))

    def fail(batch: Batch) -> None:
        if next(count) in numbers:
            raise error

    return fail


@pytest.mark.parametrize("kinds", [2, 1])
def test_a_step_that_fails_is_repeated_sequence_by_sequence_and_the_next_is_dropped(kinds: int) -> None:
    items = [request(f"r{i}", prompt(6, i), replace(GREEDY, logprobs=0 if i < kinds - 1 else None)) for i in range(3)]
    engine, device = build(True, before=fail_at(4, error=RuntimeError("once")))
    assert drain(engine, items) == drain(build(False)[0], items)
    assert engine.stats.backend_errors == 1
    assert "result 5" not in device.log, "the step behind a failed one is never read"


def test_a_failure_of_the_synchronous_engine_leaves_the_short_path() -> None:
    items = [request(f"r{i}", prompt(6, i)) for i in range(3)]
    engine, _ = build(False, before=fail_at(4, error=RuntimeError("once")))
    assert drain(engine, items) == drain(build(False)[0], items)


def test_a_step_that_cannot_be_submitted_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [request(f"r{i}", prompt(6, i)) for i in range(3)]
    engine, device = build(True)
    submit, failures = device.submit, iter([False, False, True, False, True, True])

    def refusing(batch: Batch) -> Late:
        if len(batch.context_lens) > 1 and next(failures, False):
            raise RuntimeError("not now")
        return submit(batch)

    monkeypatch.setattr(device, "submit", refusing)
    assert drain(engine, items) == drain(build(False)[0], items)
    assert engine.stats.backend_errors == 1  # the first two were the next step's, which was tried again


@pytest.mark.parametrize("ahead", [True, False])
def test_a_backend_that_is_lost_ends_the_engine_at_once(ahead: bool) -> None:
    engine, _ = build(ahead, before=fail_at(3, error=BackendLost("device error 700")))
    for index in range(3):
        engine.add(request(f"r{index}", prompt(6, index)))
    with pytest.raises(BackendLost, match="700"):
        for _ in range(9):
            assert not any(delta.finished for delta in engine.step()), "nobody is to blame"


def test_a_backend_that_is_lost_at_submit_ends_the_engine_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (0, 3):
        engine, device = build(True)
        engine.add(request("a", prompt(6)))
        for _ in range(steps):
            engine.step()
        monkeypatch.setattr(device, "submit", fail_at(0, error=BackendLost("gone")))
        with pytest.raises(BackendLost):
            engine.step()


def test_only_a_backend_with_submit_runs_ahead_and_a_setting_turns_it_off() -> None:
    cache = CacheConfig(64, 4)
    config = EngineConfig(block_size=4, max_model_len=64)
    plain = NullBackend(cache, VOCAB)
    assert type(create(plain, config, cache, VOCAB)) is Engine
    assert type(create(Delayed(plain), config, cache, VOCAB)) is AheadEngine
    assert type(create(Delayed(plain), replace(config, async_scheduling=False), cache, VOCAB)) is Engine


def test_statistics_are_those_of_the_synchronous_engine() -> None:
    items = [request(f"r{i}", prompt(12, i), replace(GREEDY, max_tokens=5 + i)) for i in range(5)]
    plain, ahead = build(False)[0], build(True)[0]
    drain(plain, items), drain(ahead, items)
    for name in ("steps", "generation_tokens", "prompt_tokens", "finished", "prefix_queries", "step_tokens"):
        assert getattr(plain.stats, name) == getattr(ahead.stats, name), name
    assert min(ahead.stats.schedule_seconds, ahead.stats.build_seconds, ahead.stats.backend_seconds) > 0


def test_a_model_answers_the_same_one_step_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, stop strings, penalties and several answers, through `LLM`, with a real sampler."""
    path, devices, make = write_tiny_gguf(tmp_path / "tiny.gguf"), [], assembly.make_backend

    def delayed(*arguments: Any) -> Backend:
        devices.append(Delayed(make(*arguments)))
        return devices[-1]

    params = [
        SamplingParams(temperature=0.0, max_tokens=20, logprobs=2),
        SamplingParams(temperature=0.9, seed=1, max_tokens=20, n=2, stop=("e", "a")),
        SamplingParams(temperature=0.9, seed=2, max_tokens=12, repetition_penalty=1.3, min_tokens=4),
        SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logit_bias={7: 1.0}),
    ]
    outputs = []
    for wrap in (False, True):
        if wrap:
            monkeypatch.setattr(assembly, "make_backend", delayed)
        with LLM(path, backend="reference", max_model_len=128, block_size=4, num_kv_blocks=60) as llm:
            outputs.append([output.outputs for output in llm.generate(["hello", "there", "once", "upon"], params)])
    assert outputs[0] == outputs[1]
    assert {answer.finish_reason for answers in outputs[0] for answer in answers} >= {"stop", "length"}
    assert devices[0].ahead > 5


def test_the_result_of_a_dropped_row_may_be_anything() -> None:
    """A row behind a stop token is computed from the end of a text. Whether it is finite is nobody's business."""
    free = drain(build(False)[0], [request("a", prompt(6))])["a", 0].token_ids

    class Poisoned(Delayed):
        def submit(self, batch: Batch) -> Late:
            late = super().submit(batch)
            return late if late.number != 5 else Unfinite(self, late)

    class Unfinite(Late):
        def __init__(self, device: Delayed, late: Late):
            super().__init__(device, late.number)
            self.late = late

        def result(self) -> StepResult:
            result = self.late.result()
            result.finite = np.zeros_like(result.finite)
            return result

    engine, _ = build(True)
    engine._backend = Poisoned(engine._backend.inner)  # type: ignore[attr-defined]
    engine.add(request("a", prompt(6), GREEDY, eos_token_ids=(free[4],)))
    answers: Answers = defaultdict(Answer)
    for step in range(6):
        if step == 4:
            engine.add(request("b", prompt(9, 3)))
        collect(answers, engine.step())
    assert answers["a", 0].finish_reason == "stop"
