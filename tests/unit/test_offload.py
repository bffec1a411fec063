"""Whatever leaves the pool and comes back, and whatever happens to it: the answers are the undisturbed ones."""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.ahead import AheadEngine, create
from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.kv import slab
from octavo.kv.offload import OffloadedCache
from octavo.kv.store import Store, Tier
from octavo.kv.tier_disk import DiskTier, open_tier
from octavo.kv.tier_ram import RamTier
from octavo.sampling_params import SamplingParams
from octavo.spec.proposer import Proposer
from octavo.types import U8, U32, Batch, Request, Sequence
from tests.unit.control import VOCAB, Answer, Answers, RandomDrafts, RandomTrees, collect, prompt, request
from tests.unit.delayed import Delayed
from tests.unit.test_ahead import Edited, Successors, crowd
from tests.unit.test_ahead import build as undisturbed

SIZE = 4  # tokens of a block
BYTES = SIZE * 16


class HostEdited(Edited):
    """The pool is main memory: threads read straight into it."""

    def host_pool(self) -> U8:
        return self._pool


def disk(folder: Path, slots: int = 2000, salted: bool = False) -> DiskTier:
    tier = open_tier(folder, "kv.slab", 3 * slab.PAGE + slots * (slab.PAGE + slab.ENTRY), BYTES, b"f" * 32, "", salted)
    assert tier is not None
    return tier


class Followers(Successors):
    """The same with drafts."""

    def matcher(self) -> Followers:
        return self

    def mask(self, seq: Sequence, position: int) -> U32:
        words = np.zeros(-(-VOCAB // 32), np.uint32)
        words[(seq.token_ids + seq.drafts)[position - 1] // 32] = 0xFFFF
        return words


class Gate:
    """A tier that answers when it may."""

    def __init__(self, inner: Tier):
        self.inner, self.open, self.asked = inner, threading.Event(), 0
        self.open.set()

    def read(self, key: bytes, into: U8) -> bool:
        self.asked += 1
        into[:] = 0xEE
        self.open.wait(10)
        return self.inner.read(key, into)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def build(
    tiers: list[Any],
    *,
    blocks: int = 30,
    backend: type[NullBackend] = HostEdited,
    ahead: bool = False,
    before: Callable[[Batch], object] = lambda batch: None,
    clock: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> Engine:
    defaults: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 8, "max_num_batched_tokens": 32}
    config = EngineConfig(block_size=SIZE, async_scheduling=ahead, kv_ram_gb=1, **(defaults | settings))
    pool = CacheConfig(blocks, SIZE)
    device: Any = backend(pool, VOCAB)
    if ahead:
        return create(Delayed(device, before), config, pool, VOCAB, clock=clock, tiers=tiers)
    return Engine(device, config, pool, VOCAB, clock=clock, tiers=tiers)


def store_of(engine: Engine) -> Store:
    assert isinstance(engine.cache, OffloadedCache)
    return engine.cache.store


def finish(engine: Engine, requests: list[Request] = [], most: int = 20_000) -> Answers:  # noqa: B006  # read only
    answers: Answers = defaultdict(Answer)
    for item in requests:
        engine.add(item)
    for _ in range(most):
        if not engine.has_work:
            break
        collect(answers, engine.step())
        engine.cache.check_integrity()
    assert not engine.has_work, "livelock"
    return answers


def settled(engine: Engine) -> None:
    """All writes are done, and no load is under way."""
    store_of(engine)._settle()
    for _ in range(1000):
        engine.step()
        if engine.cache.usage == 0:
            return
        time.sleep(0.001)
    raise AssertionError("blocks leaked")


# ------------------------------------------------------------ random schedules


@dataclass
class Life:
    """A crowd of requests on a pool that is much too small, above tiers that fail now and then."""

    seed: int
    folder: Path
    answers: Answers = field(default_factory=lambda: defaultdict(Answer))
    now: float = 0.0

    def __post_init__(self) -> None:
        plan = self.plan = random.Random(self.seed)
        self.requests = [
            replace(item, cache_salt=plan.choice(["", "", "s"]), grammar=item.grammar and Followers())
            for item in crowd(plan)
        ]
        self.truth = truth(self.requests)
        self.faults = plan.choice([0.0, 0.0, 0.02, 0.3])
        self.ahead = plan.random() < 0.3
        self.backend = plan.choice([Edited, HostEdited])
        self.mode = plan.choice(["recompute", "swap", "swap", "auto"])
        self.blocks = plan.choice([18, 18, 18, 22, 30])
        self.tiers = plan.choice([("ram",), ("disk",), ("disk",), ("ram", "disk")])
        self.ram, self.slots = plan.choice([3, 40, 2000]), plan.choice([5, 60, 2000])
        self.proposer = None if self.ahead else plan.choice([None, RandomDrafts, RandomTrees])
        self.settings = {"max_num_batched_tokens": plan.choice([6, 32, 64]), "max_num_seqs": plan.choice([3, 8])}
        self.whim = {item.request_id for item in self.requests if plan.random() < 0.1}

    def engine(self) -> Engine:
        kinds: dict[str, Callable[[], Tier]] = {
            "ram": lambda: RamTier(self.ram),
            "disk": lambda: disk(self.folder, self.slots, salted=self.seed % 2 == 0),
        }
        engine = build(
            [kinds[name]() for name in self.tiers],
            blocks=self.blocks,
            backend=self.backend,
            ahead=self.ahead,
            clock=lambda: self.now,
            preemption_mode=self.mode,
            **self.settings,
        )
        proposer: Proposer | None = None
        if self.proposer is RandomDrafts:
            proposer = RandomDrafts(self.truth, 0.8)
        elif self.proposer is RandomTrees:
            proposer = RandomTrees(self.truth, random.Random(self.seed))
        engine.speculate(proposer)
        return engine

    def live(self) -> Counter[str]:
        """One life, and, as after a restart, a second one if there is a disk."""
        totals: Counter[str] = Counter()
        for _ in range(1 + ("disk" in self.tiers)):
            self.answers.clear()
            self.now = 0.0
            engine, waiting, rng = self.engine(), self.requests[::-1], random.Random(self.seed + 1)
            for _ in range(6000):
                while waiting and rng.random() < 0.4:
                    engine.add(waiting.pop())
                if not waiting and not engine.has_work:
                    break
                self.now += rng.choice([0.1, 1.0])
                collect(self.answers, engine.step())
                engine.cache.check_integrity()
                for name in self.whim:
                    if rng.random() < 0.05:
                        collect(self.answers, engine.abort(name))
                        engine.cache.check_integrity()
            assert not engine.has_work, f"seed {self.seed}: livelock"
            self.check()
            settled(engine)
            stats = store_of(engine).stats
            totals.update(stats.tier_hits)
            totals.update(preemptions=engine.stats.preemptions, misses=stats.load_misses, drops=stats.store_drops)
            totals.update(engine.stats.finished)
            totals.update(accepted=engine.stats.accepted_tokens)
            engine.close()
        return totals

    def check(self) -> None:
        for item in self.requests:
            for index in range(item.params.n):
                mine, whole = self.answers[item.request_id, index], self.truth[item.request_id, index]
                message = f"seed {self.seed}, {item.request_id} {index}"
                if mine.finish_reason == "error":  # what a prompt gave before it failed depends on its chunks
                    mine, whole = (replace(answer, hidden=[], prompt_logprobs=[]) for answer in (mine, whole))
                if mine.finish_reason not in ("abort", "deadline"):
                    assert mine == whole, message
                for name in ("token_ids", "logprobs", "prompt_logprobs", "hidden"):
                    assert all(a == b for a, b in zip(getattr(mine, name), getattr(whole, name), strict=False)), message


def truth(requests: list[Request]) -> Answers:
    """What the requests get with room for all of them, one prompt at a time."""
    engine, _ = undisturbed(False, blocks=600, faults=False)
    return finish(engine, [replace(item, deadline=None) for item in requests])


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Life], None]]:
    """Lets the disk of a life fail: errors, short reads, flipped bits, torn writes, and a disk that is full."""
    rng, share = random.Random(0), 0.0
    lock = threading.Lock()

    def happens() -> bool:
        with lock:
            return rng.random() < share

    def read(file: int, views: list[Any], at: int) -> int:
        got = os.preadv(file, views, at)
        if not happens():
            return got
        kind = rng.choice(["error", "short", "flip", "flip"])
        if kind == "error":
            raise OSError(errno.EIO, "injected")
        if kind == "flip" and got:
            views[0][rng.randrange(got)] ^= 1 << rng.randrange(8)
        return got - 1 if kind == "short" else got

    def write(file: int, views: list[Any], at: int) -> int:
        if not happens():
            return os.pwritev(file, views, at)
        kind = rng.choice(["error", "full", "torn", "flip", "lost"])
        if kind in ("error", "full"):
            raise OSError(errno.EIO if kind == "error" else errno.ENOSPC, "injected")
        data = bytearray(views[0])
        data[rng.randrange(len(data))] ^= 8
        if kind != "lost":
            os.pwritev(file, [data[: rng.randrange(len(data))] if kind == "torn" else data], at)
        return len(data)

    def inject(life: Life) -> None:
        nonlocal rng, share
        rng, share = random.Random(life.seed), life.faults

    monkeypatch.setattr(slab, "preadv", read)
    monkeypatch.setattr(slab, "pwritev", write)
    yield inject


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def try_schedules(seeds: range, folder: Path, inject: Callable[[Life], None]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for seed in seeds:
        life = Life(seed, folder / str(seed))
        inject(life)
        totals += life.live()
    return totals


def test_random_schedules_give_the_undisturbed_answers(tmp_path: Path, faults: Callable[[Life], None]) -> None:
    totals = try_schedules(range(50), tmp_path, faults)
    kinds = ("disk", "ram", "preemptions", "misses", "abort", "deadline", "stop", "length", "accepted")
    assert all(totals[kind] for kind in kinds), totals


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_a_thousand_random_schedules_give_the_undisturbed_answers(
    first: int, tmp_path: Path, faults: Callable[[Life], None]
) -> None:
    try_schedules(range(first, first + 100), tmp_path, faults)


# ------------------------------------------------------------ memory pressure


@cache
def many() -> tuple[list[Request], Answers]:
    """40 requests of 60 tokens: 600 blocks."""
    params = SamplingParams(temperature=0, max_tokens=30)
    requests = [request(f"r{i}", prompt(30, i), params, arrival=float(i)) for i in range(40)]
    return requests, truth(requests)


@pytest.mark.parametrize("mode", ["recompute", "swap", "auto"])
@pytest.mark.parametrize("backend", [Edited, HostEdited])
def test_all_finish_with_a_pool_of_a_twentieth_of_the_demand(
    mode: str, backend: type[NullBackend], tmp_path: Path
) -> None:
    requests, expected = many()
    engine = build([disk(tmp_path)], blocks=30, backend=backend, preemption_mode=mode)
    assert finish(engine, requests) == expected
    assert engine.stats.preemptions > 10
    settled(engine)
    engine.close()


def computed(engine: Engine, requests: list[Request]) -> int:
    """Tokens that the backend ran for these requests."""
    ran, run = 0, engine._backend.run

    def count(batch: Batch) -> Any:
        nonlocal ran
        ran += len(batch.token_ids)
        return run(batch)

    engine._backend.run = count  # type: ignore[method-assign]
    finish(engine, requests)
    return ran


def test_a_swapped_sequence_computes_only_its_last_partial_block_again(tmp_path: Path) -> None:
    requests, _ = many()
    engine = build([disk(tmp_path)], blocks=30, preemption_mode="swap")
    ran, least = computed(engine, requests), sum(len(r.prompt_token_ids) + 29 for r in requests)
    assert store_of(engine).stats.store_drops == 0
    assert ran - least <= (SIZE + 1) * engine.stats.preemptions
    again = build([disk(tmp_path / "other")], blocks=30, preemption_mode="recompute")
    assert computed(again, requests) > ran + 3 * SIZE * engine.stats.preemptions


# ------------------------------------------------------------ while a sequence loads


def stocked(backend: type[NullBackend] = HostEdited, **settings: Any) -> tuple[Engine, Gate, Request, Answer]:
    """An engine whose tier has the blocks of a request, and its answer. The tier waits until its gate opens."""
    item = request("old", prompt(40, 1), SamplingParams(temperature=0, max_tokens=10))
    gate = Gate(RamTier(1000))
    first = build([gate], backend=backend)
    answer = finish(first, [item])["old", 0]
    first.close = lambda: None  # type: ignore[method-assign]
    content = RamTier(1000)
    store = store_of(first)
    for key, block in first.cache.pool.named():  # type: ignore[attr-defined]
        store.keep(key, block)
    first._transfer()
    store._settle()
    for key, data in gate.inner.content():
        content.write(key, data)
    gate = Gate(content)
    return build([gate], backend=backend, **settings), gate, item, answer


@pytest.mark.parametrize("backend", [Edited, HostEdited])
def test_others_run_while_a_sequence_loads(backend: type[NullBackend]) -> None:
    engine, gate, item, expected = stocked(backend)
    gate.open.clear()
    (old,) = engine.add(item)
    (new,) = engine.add(request("new", prompt(9, 2), SamplingParams(temperature=0, max_tokens=5)))
    for _ in range(8):
        engine.step()
        engine.cache.check_integrity()
    assert new.finish_reason == "length" and old.status.value == "loading" and old.num_output_tokens == 0
    gate.open.set()
    assert finish(engine)["old", 0] == expected
    assert old.num_cached_tokens == 36 and store_of(engine).stats.external_hits == 36
    settled(engine)


@pytest.mark.parametrize("backend", [Edited, HostEdited])
@pytest.mark.parametrize("how", ["abort", "deadline"])
def test_a_sequence_that_loads_can_be_ended_at_once(how: str, backend: type[NullBackend]) -> None:
    now = 0.0
    engine, gate, item, expected = stocked(backend, clock=lambda: now)
    gate.open.clear()
    engine.add(replace(item, deadline=5.0))
    for _ in range(3):
        engine.step()
    assert engine.cache.usage > 0 and gate.asked
    now = 9.0 if how == "deadline" else now
    (delta,) = engine.abort("old") if how == "abort" else engine.step()
    assert delta.finish_reason == how and not engine.has_work
    engine.cache.check_integrity()
    held = round(engine.cache.usage * 30)
    assert held == (2 if backend is HostEdited else 0), "no more than threads write to"
    items, answers = many()
    assert finish(engine, items[:1])["r0", 0] == answers["r0", 0], "others get its memory, but not these blocks"
    gate.open.set()
    settled(engine)
    assert finish(engine, [item])["old", 0] == expected


def test_a_sequence_that_loads_gives_way_and_comes_back() -> None:
    engine, gate, item, expected = stocked(blocks=24)
    urgent = request("urgent", prompt(40, 3), SamplingParams(temperature=0, max_tokens=40), priority=-1)
    engine.add(urgent)
    engine.step()
    gate.open.clear()
    (old,) = engine.add(item)
    for _ in range(60):
        engine.step()
        engine.cache.check_integrity()
    assert old.num_preemptions == 1, "the urgent one needed its blocks"
    gate.open.set()
    assert finish(engine)["old", 0] == expected


def test_one_load_serves_all_that_want_it() -> None:
    engine, gate, item, expected = stocked()
    answers = finish(engine, [replace(item, request_id=str(i)) for i in range(4)])
    assert all(answers[str(i), 0] == expected for i in range(4))
    assert gate.asked == 9


def test_an_idle_engine_does_not_spin_while_it_waits() -> None:
    engine, gate, item, expected = stocked()
    gate.open.clear()
    engine.add(item)
    threading.Timer(0.2, gate.open.set).start()
    assert finish(engine)["old", 0] == expected
    assert engine.stats.steps < 60


# ------------------------------------------------------------ what is stored, and when


def test_a_prompt_after_a_restart_is_not_computed_again(tmp_path: Path) -> None:
    item = request("a", prompt(40, 1), SamplingParams(temperature=0, max_tokens=10))
    first = build([disk(tmp_path)])
    expected = finish(first, [item])
    assert store_of(first).stats.swap_bytes_out == 0, "a prompt that was asked once must not wear the disk"
    first.close()
    assert store_of(first).stats.swap_bytes_out == 12 * BYTES
    second = build([disk(tmp_path)])
    (seq,) = second.add(item)
    assert finish(second) == expected and seq.num_cached_tokens == 36
    second.close()


def test_blocks_are_stored_when_they_are_evicted_or_hit_twice(tmp_path: Path) -> None:
    engine = build([disk(tmp_path)])
    store, item = store_of(engine), request("a", prompt(17, 1))
    for asked, written in ((1, 0), (2, 0), (3, 4), (4, 4)):
        finish(engine, [replace(item, request_id=str(asked))])
        store._settle()
        assert store.stats.swap_bytes_out == written * BYTES
    finish(engine, many()[0][:6])
    store._settle()
    assert store.stats.swap_bytes_out > 50 * BYTES
    engine.close()


@pytest.mark.parametrize("salted", [False, True])
def test_blocks_of_salted_requests_stay_off_the_disk(tmp_path: Path, salted: bool) -> None:
    item = request("a", prompt(40, 1), cache_salt="mine")
    first = build([disk(tmp_path, salted=salted)])
    finish(first, [item])
    first.close()
    second = build([disk(tmp_path, salted=salted)])
    (seq,) = second.add(item)
    finish(second)
    assert seq.num_cached_tokens == (36 if salted else 0)
    second.close()


def test_what_a_failed_request_left_is_not_stored() -> None:
    tier = RamTier(1000)
    engine = build([tier], backend=NanEdited)
    engine.add(request("a", prompt(40, 1), SamplingParams(temperature=0, max_tokens=20)))
    for _ in range(4):
        engine.step()
    store = store_of(engine)
    for key, block in engine.cache.pool.named():  # type: ignore[attr-defined]
        store.keep(key, block)
    engine._transfer()
    NanEdited.bad = True
    try:
        (delta,) = engine.step()
    finally:
        NanEdited.bad = False
    assert delta.finish_reason == "error"
    store._settle()
    assert tier.content() == [] and not store._staged


class NanEdited(HostEdited):
    bad = False

    def run(self, batch: Batch) -> Any:
        result = super().run(batch)
        result.finite[:] &= not self.bad
        return result


def test_a_full_stage_drops_blocks_and_nothing_else(tmp_path: Path) -> None:
    engine = build([disk(tmp_path)], preemption_mode="swap")
    store, held = store_of(engine), threading.Event()
    del store._rows[4:]
    store._writer.submit(held.wait)
    threading.Timer(0.3, held.set).start()
    requests, expected = many()
    assert finish(engine, requests) == expected and store.stats.store_drops > 0
    engine.close()


def test_ram_pushes_its_oldest_blocks_to_the_disk_and_all_at_the_end(tmp_path: Path) -> None:
    ram, requests = RamTier(4), many()[0]
    engine = build([ram, disk(tmp_path)], backend=Edited, preemption_mode="swap")
    assert finish(engine, requests) == many()[1]
    hits = store_of(engine).stats.tier_hits
    assert hits["ram"] and hits["disk"] and len(ram.content()) == 4 and ram.evictions > 0
    engine.close()
    later = build([disk(tmp_path)])
    seqs = [later.add(item)[0] for item in requests[-3:]]
    assert finish(later)["r39", 0] == many()[1]["r39", 0]
    assert all(seq.num_cached_tokens == 28 for seq in seqs)


class Slow(Gate):
    """A disk that takes its time."""

    def read(self, key: bytes, into: U8) -> bool:
        time.sleep(0.02)
        return self.inner.read(key, into)


class SlowEdited(HostEdited):
    """A model that takes its time for prompts."""

    def run(self, batch: Batch) -> Any:
        time.sleep(0.001 * len(batch.token_ids) if len(batch.token_ids) > 8 else 0)
        return super().run(batch)


@pytest.mark.parametrize(("tier", "backend", "loads"), [(Slow, HostEdited, False), (Gate, SlowEdited, True)])
def test_auto_takes_the_faster_way_as_measured(tier: type[Gate], backend: type[NullBackend], loads: bool) -> None:
    requests, expected = many()
    engine = build([tier(RamTier(1000))], blocks=30, backend=backend, preemption_mode="auto")
    assert finish(engine, requests) == expected
    stats = store_of(engine).stats
    share = stats.external_hits / stats.external_queries
    assert share > 0.2 if loads else share < 0.1, share
    engine.close()


def test_one_step_ahead_uses_the_store_too(tmp_path: Path) -> None:
    requests, expected = many()
    engine = build([disk(tmp_path)], ahead=True, preemption_mode="swap")
    assert type(engine) is AheadEngine and finish(engine, requests) == expected
    assert store_of(engine).stats.external_hits > 100
