"""sink_recent in the control plane: which blocks stay, and that nothing but the rule decides what a token sees."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from octavo.config import CacheConfig, EngineConfig
from octavo.errors import CapacityError, ConfigError, RequestError
from octavo.kv import eviction
from octavo.kv.eviction import hidden_blocks, most_blocks, parse, seen
from octavo.kv.planner import resolve
from octavo.kv.snapkv import choose
from octavo.sampling.params import check
from octavo.sampling_params import SamplingParams
from octavo.types import Request, SinkRecent, SnapKV
from tests.unit.control import VOCAB, Answers, RandomDrafts, RandomTrees, drain, engine, prompt, request

POLICY = "sink_recent(16, 32)"
SIZE = {"block_size": 16, "max_model_len": 128}


def params(policy: str | None = POLICY, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 40, "kv_eviction": policy} | fields)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (None, None),
        ("none", None),
        ("sink_recent", SinkRecent(16, 1024)),
        ("sink_recent()", SinkRecent(16, 1024)),
        ("sink_recent(32)", SinkRecent(32, 1024)),
        ("sink_recent(16, 64)", SinkRecent(16, 64)),
        ("sink_recent(window=64, sinks = 32)", SinkRecent(32, 64)),
        ("snapkv", SnapKV(0.5, 32, 7)),
        ("snapkv(512)", SnapKV(512, 32, 7)),
        ("snapkv(0.25, pool=5)", SnapKV(0.25, 32, 5)),
    ],
)
def test_policies(text: str | None, policy: SinkRecent | None) -> None:
    assert parse(text) == policy


@pytest.mark.parametrize(
    "text",
    ["", "h2o", "sink_recent(1, 2, 3)", "sink_recent(15)", "sink_recent(0)", "sink_recent(16, 33)", "sink_recent(x)",
     "sink_recent(size=16)", "sink_recent(528)", "sink_recent(16", "sink_recent(16, 16, window=16)", "snapkv(0)",
     "snapkv(1.5)", "snapkv(0.5, 100)", "snapkv(pool=4)", "snapkv(0.5, 8.5)"],
)  # fmt: skip
def test_what_is_no_policy_is_refused_by_name(text: str) -> None:
    with pytest.raises(RequestError, match="kv_eviction") as caught:
        check(params(text), VOCAB)
    assert caught.value.field == "kv_eviction"


@pytest.mark.parametrize("block_size", [4, 16, 32, 64])
def test_the_table_keeps_exactly_what_later_tokens_see(block_size: int) -> None:
    """Against the rule, token by token; and `most_blocks` is enough for ever."""
    policy = SinkRecent(16, 48)
    for position in range(700):
        later = np.arange(position, position + 3 * block_size)
        visible = np.zeros(position + 1, np.bool_)
        for each in later:
            visible |= seen(int(each), np.arange(position + 1), policy.sinks, policy.window)
        hidden = hidden_blocks(policy, position, block_size)
        blocks = position // block_size
        for block in range(blocks):
            unseen = not visible[block * block_size : (block + 1) * block_size].any()
            assert (block in hidden) == unseen, (position, block)
        assert blocks + 1 - len(hidden) <= most_blocks(policy, block_size)


REQUESTS = [
    request(f"r{i}", prompt(length, seed), params(max_tokens=most, seed=i, **more), arrival=float(i))
    for i, (length, seed, most, more) in enumerate(
        [
            (5, 1, 30, {}),
            (200, 2, 90, {}),
            (200, 2, 90, {}),  # the same again: it shares blocks
            (300, 3, 200, {"temperature": 1.0, "n": 3}),
            (70, 4, 150, {"policy": "sink_recent(32, 64)"}),
            (70, 4, 40, {"policy": None}),
            (90, 5, 60, {"prompt_logprobs": 1}),
            (90, 6, 30, {"policy": "snapkv(40, window=8)"}),
            (90, 6, 30, {"policy": "snapkv(0.3, window=8)", "n": 3, "temperature": 1.0}),
            (20, 7, 30, {"policy": "snapkv(40, window=8)"}),
            (90, 6, 1, {"policy": "snapkv(40, window=8)"}),
        ]
    )
]
SIZES: dict[str, Any] = {"max_model_len": 128, "block_size": 16, "blocks": 60}


def alone() -> Answers:
    """Each request by itself, in one chunk where that is possible, with a table that is wide enough to drop nothing
    within a chunk."""
    settings = SIZES | {"max_model_len": 1024, "blocks": 200, "max_num_batched_tokens": 512}
    return {key: answer for item in REQUESTS for key, answer in drain(engine(**settings), [item]).items()}


ALONE = alone()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_batched_tokens": 9},
        {"block_size": 4, "blocks": 200},
        {"block_size": 64, "blocks": 30, "max_model_len": 256},
        {"blocks": 14, "max_num_seqs": 5},
        {"blocks": 14, "max_num_seqs": 5, "preemption_victim": "blocks", "max_num_batched_tokens": 100},
        {"enable_prefix_caching": False},
        {"enable_chunked_prefill": False},
        {"scheduler": "static"},
    ],
    ids=str,
)
@pytest.mark.parametrize("drafts", ["none", "chains", "trees"])
def test_answers_depend_on_the_request_alone(settings: dict[str, Any], drafts: str) -> None:
    proposer = {
        "none": None,
        "chains": RandomDrafts(ALONE, 0.7),
        "trees": RandomTrees(ALONE, random.Random(3)),
    }[drafts]
    busy = engine(**SIZES | settings, proposer=proposer)
    assert drain(busy, REQUESTS) == ALONE
    if settings.get("blocks") == 14:
        assert busy.stats.preemptions > 0
    if not settings:
        assert busy.stats.prefix_hits > 0


def test_it_is_not_what_a_whole_context_gives() -> None:
    """Otherwise the tests above would show nothing."""
    whole = drain(engine(**SIZES | {"max_model_len": 1024, "blocks": 200}), [request("a", prompt(200), params(None))])
    part = drain(engine(**SIZES), [request("a", prompt(200), params())])
    assert whole["a", 0].token_ids != part["a", 0].token_ids


def test_a_stream_beyond_the_pool_and_the_context_goes_on_at_constant_memory() -> None:
    stream = engine(blocks=8, block_size=16, max_model_len=128, max_num_batched_tokens=32)
    stream.add(request("a", prompt(1_000), params(max_tokens=2_000)))
    (seq,) = stream.scheduler._queue.waiting
    most = 0
    while stream.has_work:
        stream.step()
        stream.cache.check_integrity()
        most = max(most, len(seq.block_table))
    assert len(seq.token_ids) == 3_000 and seq.finish_reason == "length"
    assert most <= 8


def test_without_eviction_it_ends_with_length() -> None:
    ended = drain(engine(**SIZES), [request("a", prompt(100), params(None, max_tokens=None))])["a", 0]
    assert ended.finish_reason == "length" and len(ended.token_ids) == 28


def test_without_max_tokens_an_answer_is_as_long_as_the_context() -> None:
    ended = drain(engine(**SIZES), [request("a", prompt(100), params(max_tokens=None))])["a", 0]
    assert ended.finish_reason == "length" and len(ended.token_ids) == 128


def test_what_it_keeps_must_fit() -> None:
    for settings in ({"max_model_len": 64}, {"blocks": 3}):
        with pytest.raises(CapacityError, match="lower its window"):
            engine(**SIZES | settings).add(request("a", prompt(5), params("sink_recent(16, 64)")))


def test_its_blocks_are_shared_under_a_key_of_their_own() -> None:
    one = engine(**SIZES)
    for name, policy, hits in (("a", POLICY, 0), ("b", None, 0), ("c", POLICY, 96), ("d", "sink_recent(16, 48)", 0)):
        before = one.stats.prefix_hits
        drain(one, [request(name, prompt(100, 9), params(policy, max_tokens=4))])
        assert one.stats.prefix_hits - before == hits, name


def test_a_hit_takes_only_the_blocks_that_are_seen() -> None:
    one = engine(**SIZES | {"max_model_len": 256})
    drain(one, [request("a", prompt(200, 9), params(max_tokens=2))])
    (seq,) = one.add(request("b", prompt(200, 9), params(max_tokens=2)))
    one.step()
    assert seq.num_cached_tokens == 192
    assert len(seq.block_table) == 1 + 2 + 1, "sinks, recent blocks, its own"


def test_a_device_or_a_cache_that_cannot_is_named() -> None:
    with pytest.raises(RequestError, match="kv_cache='paged'"):
        engine(**SIZES | {"kv_cache": "contiguous"}).add(request("a", prompt(5), params()))
    no = CacheConfig(8, 16, evictions=())
    assert "not available on this backend" in (eviction.refusal(SinkRecent(), EngineConfig(), no.evictions) or "")
    with pytest.raises(RequestError, match="max_num_batched_tokens"):
        engine(**SIZES | {"max_num_batched_tokens": 8}).add(request("a", prompt(5), params("snapkv(20)")))
    from octavo.backends.cuda.device import DEVICE as CUDA

    with pytest.raises(ConfigError, match="not available on this backend"):
        resolve(EngineConfig(kv_eviction="sink_recent"), CUDA, [], 512, 0, 1 << 30)
    with pytest.raises(ConfigError, match="kv_eviction must be"):
        resolve(EngineConfig(kv_eviction="h2o"), CUDA, [], 512, 0, 1 << 30)


def test_a_request_keeps_its_policy_when_it_crosses_a_process() -> None:
    import msgspec

    made = Request("a", [1], params())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Request).params.kv_eviction == POLICY


def test_snapkv_keeps_its_budget_and_goes_on_from_the_true_position() -> None:
    one = engine(**SIZES | {"max_num_batched_tokens": 64})
    (seq,) = one.add(request("a", prompt(100), params("snapkv(40, window=8)", max_tokens=20)))
    one.step()
    assert len(seq.block_table) == 7
    one.step()
    assert (seq.num_computed_tokens, seq.kv_length, len(seq.block_table)) == (100, 40, 3)
    one.step()
    assert (seq.num_computed_tokens, seq.kv_length) == (101, 41)
    one.cache.check_integrity()


def test_the_prompt_of_snapkv_is_shared_with_any_other() -> None:
    one = engine(**SIZES)
    for name, policy, hits in (("a", "snapkv(40, window=8)", 0), ("b", None, 96), ("c", "snapkv(32, window=8)", 96)):
        before = one.stats.prefix_hits
        drain(one, [request(name, prompt(100, 9), params(policy, max_tokens=20))])
        assert one.stats.prefix_hits - before == hits, name


def test_what_was_generated_after_snapkv_is_shared_with_nobody() -> None:
    one = engine(**SIZES)
    made = drain(one, [request("a", prompt(40, 9), params("snapkv(20, window=8)", max_tokens=40))])["a", 0].token_ids
    (seq,) = one.add(request("b", prompt(40, 9) + made, params(None, max_tokens=2)))
    one.step()
    assert seq.num_cached_tokens == 32


def test_choose_keeps_pieces_around_the_largest_and_the_window() -> None:
    mass = np.zeros(40, np.float32)
    mass[10], mass[20], mass[29] = 3, 2, 1
    assert choose(mass, 4, 4 + 3 + 3 + 2, 3).tolist() == [9, 10, 11, 19, 20, 21, 28, 29, 36, 37, 38, 39]
    assert choose(np.ones(10, np.float32), 2, 5, 3).tolist() == [0, 1, 2, 8, 9], "the lower position of equals"
