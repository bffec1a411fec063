"""Whatever happens around a request, it gets the same tokens as alone.

The engine runs on the null backend, whose tokens depend on every slot of the context.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import CapacityError, RequestError
from octavo.sampling_params import SamplingParams
from octavo.types import Request, Sequence
from tests.unit.control import GREEDY, VOCAB, Answer, Answers, RandomDrafts, collect, drain, engine, prompt, request

EOS = tuple(range(30))  # three tokens in a hundred


def crowd(count: int, seed: int = 0, longest: int = 40, **fields: Any) -> list[Request]:
    """Requests of all kinds; a third begin with a common prefix."""
    rng = random.Random(seed)
    common = prompt(24, seed=99)
    requests = []
    for index in range(count):
        tokens = (common[: rng.randint(1, 24)] if index % 3 == 0 else []) + prompt(rng.randint(1, longest), seed=index)
        params = SamplingParams(
            n=rng.choice([1, 1, 1, 2, 3]),
            temperature=rng.choice([0.0, 0.0, 1.0]),
            max_tokens=rng.randint(1, 25),
            min_tokens=rng.choice([0, 0, 1]),
            ignore_eos=rng.random() < 0.5,
            stop_token_ids=tuple(range(30, 50)),
            logprobs=rng.choice([None, None, 0, 2]),
            prompt_logprobs=rng.choice([None, None, None, 1]),
        )
        fields["priority"] = rng.randint(0, 1)
        requests.append(
            request(f"r{index}", tokens, params, seed=index, eos_token_ids=EOS, arrival=float(index), **fields)
        )
    return requests


def alone(requests: list[Request]) -> Answers:
    """The undisturbed answers: each request alone in a new engine, its prompt in one chunk, nothing shared."""
    answers: Answers = {}
    for item in requests:
        lonely = engine(blocks=256, max_num_batched_tokens=512, enable_prefix_caching=False)
        answers |= drain(lonely, [item])
    return answers


REQUESTS = crowd(24)
ALONE = alone(REQUESTS)


def arrive_at_random(requests: list[Request], seed: int, **settings: Any) -> tuple[Answers, Any]:
    busy = engine(**settings)
    rng, waiting = random.Random(seed), list(requests)
    rng.shuffle(waiting)
    answers: Answers = defaultdict(Answer)
    for _ in range(20_000):
        while waiting and rng.random() < 0.3:
            busy.add(waiting.pop())
        if not waiting and not busy.has_work:
            break
        collect(answers, busy.step())
        busy.cache.check_integrity()
    assert not busy.has_work and busy.cache.usage == 0
    return dict(answers), busy.stats


def test_the_answers_are_worth_comparing() -> None:
    assert {answer.finish_reason for answer in ALONE.values()} == {"stop", "length"}
    assert any(answer.stop_reason is not None for answer in ALONE.values())
    assert len({tuple(answer.token_ids) for answer in ALONE.values()}) > 30
    assert any(answer.prompt_logprobs for answer in ALONE.values())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    budget=st.integers(1, 64),
    block_size=st.sampled_from([1, 4, 16]),
    max_num_seqs=st.integers(1, 12),
    chunked=st.booleans(),
    prefix=st.booleans(),
    policy=st.sampled_from(["fcfs", "priority", "deadline"]),
    room=st.floats(0, 1),
    skill=st.sampled_from([None, 0.0, 0.5, 1.0]),
)
def test_a_busy_engine_changes_no_answer(
    seed: int,
    budget: int,
    block_size: int,
    max_num_seqs: int,
    chunked: bool,
    prefix: bool,
    policy: str,
    room: float,
    skill: float | None,
) -> None:
    least = -(-90 // block_size)  # the longest request alone
    answers, _ = arrive_at_random(
        REQUESTS,
        seed,
        blocks=least + int(room * 4 * least),
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=prefix,
        policy=policy,
        proposer=None if skill is None else RandomDrafts(ALONE, skill, seed=seed),
    )
    assert answers == ALONE


@pytest.mark.parametrize("kv_cache", ["paged", "contiguous"])
@pytest.mark.parametrize("scheduler", ["continuous", "static"])
def test_the_baselines_give_the_same_answers(kv_cache: str, scheduler: str) -> None:
    answers, _ = arrive_at_random(REQUESTS, 7, blocks=100, scheduler=scheduler, kv_cache=kv_cache)
    assert answers == ALONE


def test_what_the_invariance_tests_exercise_really_happens() -> None:
    answers, stats = arrive_at_random(REQUESTS, 3, blocks=23, proposer=RandomDrafts(ALONE, 0.7))
    assert answers == ALONE
    assert stats.preemptions > 3
    assert 0 < stats.prefix_hits < stats.prefix_queries
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert stats.generation_tokens == sum(len(answer.token_ids) for answer in ALONE.values())
    assert stats.finished == {"stop": stats.finished["stop"], "length": len(ALONE) - stats.finished["stop"]}
    assert stats.prompt_tokens == sum(len(item.prompt_token_ids) for item in REQUESTS)


def test_right_drafts_save_steps() -> None:
    item = request("a", prompt(5), SamplingParams(temperature=0, max_tokens=30))
    truth = drain(engine(), [item])
    steps = []
    for skill in (0.0, 1.0):
        fast = engine(proposer=RandomDrafts(truth, skill))
        assert drain(fast, [item]) == truth
        steps.append(fast.stats.steps)
    assert steps[1] < steps[0] / 2


def test_a_pool_at_five_percent_of_demand_never_stops() -> None:
    requests = [
        request(f"r{i}", prompt(30, i), SamplingParams(temperature=0, max_tokens=30), arrival=float(i))
        for i in range(40)
    ]
    demand = 40 * -(-59 // 4)
    tight = engine(blocks=demand // 20, max_num_seqs=40, enable_prefix_caching=False)
    answers = drain(tight, requests)
    assert {len(answer.token_ids) for answer in answers.values()} == {30}
    assert tight.stats.preemptions > 0


def test_the_oldest_finishes_first_when_blocks_are_short() -> None:
    tight = engine(blocks=16, max_num_seqs=8)
    for index in range(6):
        tight.add(
            request(f"r{index}", prompt(4, index), SamplingParams(temperature=0, max_tokens=59), arrival=float(index))
        )
    finished = []
    while tight.has_work:
        finished += [delta.request_id for delta in tight.step() if delta.finished]
        tight.cache.check_integrity()
    assert finished == [f"r{index}" for index in range(6)]


def test_growth_is_bounded_by_the_context_and_by_the_pool_alike_in_any_company() -> None:
    endless = [request(f"r{i}", prompt(5, i), SamplingParams(temperature=0, max_tokens=None)) for i in range(3)]
    by_context = drain(engine(max_model_len=40), endless)
    assert {(len(answer.token_ids), answer.finish_reason) for answer in by_context.values()} == {(35, "length")}
    by_pool = drain(engine(blocks=8), endless)  # 32 slots; the last token needs none
    assert {(len(answer.token_ids), answer.finish_reason) for answer in by_pool.values()} == {(28, "length")}


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "words"),
    [
        (100, 29, "1 more than max_model_len"),
        (129, None, "2 more than max_model_len"),
        (50, 16, "needs 1 tokens of KV cache more"),
        (66, None, "needs 2 tokens of KV cache more"),
    ],
)
def test_what_can_never_fit_is_refused_by_how_much(tokens: int, max_tokens: int | None, words: str) -> None:
    small = engine(blocks=16)
    with pytest.raises(CapacityError, match=words):
        small.add(request("a", prompt(tokens), SamplingParams(max_tokens=max_tokens)))
    assert not small.has_work


def test_bad_prompts_and_names_are_refused() -> None:
    small = engine()
    for tokens in ([], [VOCAB], [-1]):
        with pytest.raises(RequestError) as caught:
            small.add(request("a", tokens))
        assert caught.value.field == "prompt"
    small.add(request("a", [1]))
    with pytest.raises(RequestError, match="request_id"):
        small.add(request("a", [1]))


def test_logprobs_are_as_asked_for() -> None:
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=1)
    tokens = prompt(20)
    small = engine(max_num_batched_tokens=7)
    (seq,) = small.add(request("a", tokens, params))
    answer = drain(small)["a", 0]
    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
    assert all(
        entry.rank == 1 and len(entry.top) == 3 and entry.top[0][0] == entry.token_id for entry in answer.logprobs
    )
    assert [entry.token_id for entry in answer.prompt_logprobs] == tokens[1:]
    assert all(len(entry.top) == 1 for entry in answer.prompt_logprobs)
    assert seq.cumulative_logprob == pytest.approx(sum(entry.logprob for entry in answer.logprobs))


def test_max_tokens_zero_scores_the_prompt_alone() -> None:
    answer = drain(engine(), [request("a", prompt(9), SamplingParams(max_tokens=0, prompt_logprobs=0))])["a", 0]
    assert (answer.token_ids, answer.finish_reason, len(answer.prompt_logprobs)) == ([], "length", 8)


@pytest.mark.parametrize(("pooling", "rows"), [("last", 1), ("mean", 30), ("cls", 30)])
def test_pooled_requests_return_hidden_states_and_generate_nothing(pooling: str, rows: int) -> None:
    tokens = prompt(30)
    small = engine(max_num_batched_tokens=8)
    answer = drain(small, [request("a", tokens, GREEDY, pooling=pooling)])["a", 0]
    assert (answer.token_ids, answer.finish_reason) == ([], "stop")
    assert [row[:2] for row in answer.hidden] == [[tokens[i], i] for i in range(30 - rows, 30)]


def test_min_tokens_and_stop_tokens() -> None:
    free = drain(engine(), [request("a", prompt(6), SamplingParams(temperature=0, max_tokens=12))])["a", 0].token_ids
    stop = SamplingParams(temperature=0, max_tokens=12, stop_token_ids=(free[4],))
    answer = drain(engine(), [request("a", prompt(6), stop)])["a", 0]
    assert (answer.token_ids, answer.finish_reason, answer.stop_reason) == (free[:5], "stop", free[4])
    eos = drain(engine(), [request("a", prompt(6), GREEDY, eos_token_ids=(free[2],))])["a", 0]
    assert (eos.token_ids, eos.finish_reason, eos.stop_reason) == (free[:3], "stop", None)
    late = dataclasses.replace(GREEDY, min_tokens=4)  # the null backend does not ban the token, the rule must not stop
    assert drain(engine(), [request("a", prompt(6), late, eos_token_ids=(free[2],))])["a", 0].token_ids == free
    deaf = dataclasses.replace(GREEDY, ignore_eos=True)
    assert drain(engine(), [request("a", prompt(6), deaf, eos_token_ids=(free[2],))])["a", 0].token_ids == free


def test_answers_of_one_prompt_share_its_blocks() -> None:
    small = engine(blocks=32, block_size=4)
    small.add(request("a", prompt(30), SamplingParams(n=4, temperature=1.0, max_tokens=8), seed=5))
    small.step()
    small.step()  # all four have a token; the prompt takes 8 blocks, once
    assert small.cache.usage == 11 / 32  # 7 full ones shared; the partial one has been copied for three of four
    small.cache.check_integrity()
    answers = drain(small)
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == 4


def test_a_conversation_s_second_turn_computes_only_what_is_new() -> None:
    small = engine(max_num_batched_tokens=128)
    first = drain(small, [request("a", prompt(30), SamplingParams(temperature=0, max_tokens=11))])["a", 0]
    history = prompt(30) + first.token_ids + prompt(5, 2)
    (second,) = small.add(request("b", history))
    small.step()
    assert second.num_cached_tokens == 40 // 4 * 4


def test_salts_are_not_shared() -> None:
    small = engine()
    cached = []
    for index, salt in enumerate(["x", "y", "x", ""]):
        (seq,) = small.add(request(str(index), prompt(20), cache_salt=salt))
        drain(small)
        cached.append(seq.num_cached_tokens)
    assert cached == [0, 0, 16, 0]


def test_abort_at_any_phase_frees_everything_and_disturbs_nobody() -> None:
    others = REQUESTS[:6]
    for steps in range(12):
        busy = engine(blocks=60, max_num_batched_tokens=16)
        victim = request("victim", prompt(40, 123), SamplingParams(n=3, temperature=1, max_tokens=20), arrival=-1.0)
        answers: Answers = defaultdict(Answer)
        for item in [victim, *others]:
            busy.add(item)
        for _ in range(steps):
            collect(answers, busy.step())
        last = busy.abort("victim")
        collect(answers, last)
        busy.cache.check_integrity()
        assert {delta.finish_reason for delta in last} <= {"abort"}
        assert busy.abort("victim") == []
        rest = drain(busy)
        for key, answer in rest.items():
            answers[key].token_ids += answer.token_ids
            assert key[0] != "victim"
        assert all(
            answers[key].token_ids == ALONE[key].token_ids for key in ALONE if key[0] in {r.request_id for r in others}
        )


def untouched_by(token: int) -> Answers:
    """The answers of the requests in which this token does not occur."""
    touched = {key[0] for key, answer in ALONE.items() if token in answer.token_ids}
    touched |= {item.request_id for item in REQUESTS if token in item.prompt_token_ids}
    return {key: answer for key, answer in ALONE.items() if key[0] not in touched}


def test_nan_fails_its_request_alone_and_leaves_no_prefix_behind() -> None:
    poison = 500
    bad = request("bad", [*prompt(13, 50), poison, *prompt(13, 51)], SamplingParams(n=2, temperature=0, max_tokens=9))
    small = engine(blocks=200, nan_tokens=[poison], max_num_batched_tokens=24)
    answers = drain(small, [bad, *REQUESTS])
    assert {answers["bad", index].finish_reason for index in (0, 1)} == {"error"}
    innocent = untouched_by(poison)
    assert {key: answers[key] for key in innocent} == innocent and len(innocent) > 20


def test_what_was_computed_beside_a_nan_is_never_shared() -> None:
    small = engine(nan_tokens=[500], max_num_batched_tokens=16)
    tokens = [*prompt(9), 500, *prompt(30, 1)]
    assert drain(small, [request("bad", tokens)])["bad", 0].finish_reason == "error"
    (retry,) = small.add(request("retry", tokens))
    small.step()
    assert retry.num_cached_tokens == 0


class Poisoner:
    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts = [500, 500]


def test_a_nan_behind_a_rejected_draft_is_nobody_s_fault() -> None:
    item = request("a", prompt(9))
    truth = drain(engine(), [item])
    assert 500 not in truth["a", 0].token_ids
    speculative = engine(nan_tokens=[500], proposer=Poisoner())
    assert drain(speculative, [item]) == truth
    assert speculative.stats.draft_tokens > 0


def test_a_crash_fails_the_culprit_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    culprit = 501
    bad = request("bad", [*prompt(20, 60), culprit], GREEDY)
    small = engine(blocks=200, crash_tokens=[culprit])
    answers = drain(small, [*REQUESTS, bad])
    assert answers["bad", 0].finish_reason == "error"
    innocent = untouched_by(culprit)
    assert {key: answers[key] for key in innocent} == innocent and len(innocent) > 20
    assert small.stats.backend_errors >= 2


def test_a_crash_in_the_step_of_a_copy_on_write_loses_no_copy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    item = request("a", prompt(6), SamplingParams(n=3, temperature=1, max_tokens=6), seed=3)
    truth = drain(engine(), [item])
    small = engine(crash_tokens=[501])
    small.add(item)
    answers: Answers = defaultdict(Answer)
    collect(answers, small.step())
    small.add(request("bad", [501]))
    collect(answers, small.step())
    assert answers.pop(("bad", 0)).finish_reason == "error"
    while small.has_work:
        collect(answers, small.step())
    assert answers == truth


class BrokenProposer:
    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts = [1, 2, 3]
        raise ValueError("injected failure")


def test_a_broken_proposer_costs_speed_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    small = engine(blocks=256, proposer=BrokenProposer())
    assert drain(small, REQUESTS) == ALONE
    assert small.stats.draft_tokens == 0


def test_time_is_split_between_the_control_plane_and_the_backend() -> None:
    small = engine()
    drain(small, [request("a", prompt(6))])
    assert small.stats.steps == 12
    assert 0 < small.stats.control_seconds < 1 and 0 < small.stats.backend_seconds < 1


def test_a_delta_says_when_its_sequence_first_ran():
    """The time of its first step, even if it is preempted later or its prompt takes several steps."""
    small = engine(max_num_seqs=1, max_num_batched_tokens=8)
    for name in "ab":
        small.add(request(name, prompt(30, seed=ord(name)), SamplingParams(temperature=0, max_tokens=3)))
    before = time.monotonic()
    seen: dict[str, set[float | None]] = defaultdict(set)
    while small.has_work:
        for delta in small.step():
            seen[delta.request_id].add(delta.scheduled)
    (a,), (b,) = seen["a"], seen["b"]
    assert a is not None and b is not None and before <= a < b <= time.monotonic()
    small.add(request("c", prompt(30), deadline=time.monotonic()))
    assert [(delta.finish_reason, delta.scheduled) for delta in small.step()] == [("deadline", None)]
