"""The short path gives the same batches and deltas as the ordinary path, step by step, whatever happens."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from msgspec.structs import asdict, astuple

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig
from octavo.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.scheduler import decode
from octavo.scheduler.batch import Schedule
from octavo.types import U32, Batch, Request, ScheduledSequence, Sequence, SequenceDelta, Status, StepResult
from tests.unit.control import VOCAB, Answers, RandomDrafts, RandomTrees, drain, engine, prompt, request

WORDS = -(-VOCAB // 32)
NAN, CRASH = 40, 41  # tokens
CROWD = 20
YOUNG = 3  # batches that are younger than so many steps are not yet checked for changes


class EveryOther:
    """A grammar that allows only even tokens at even positions."""

    stopped = False

    def matcher(self) -> EveryOther:
        return self

    def mask(self, seq: Sequence, position: int) -> U32:
        return np.full(WORDS, 0x55555555 if position % 2 == 0 else 0xFFFFFFFF, np.uint32)


class Occasional:
    """A proposer that drafts in a third of the steps, and learns from all of them."""

    wants_hidden = True

    def __init__(self, inner: RandomDrafts | RandomTrees, seed: int):
        self.inner, self.random = inner, random.Random(seed)
        self.seen: list[Any] = []

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts, seq.draft_parents = [], None
        if self.random.random() < 0.3:
            self.inner.propose(sequences)

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        assert result.hidden is not None
        for entry in entries:
            if entry.seq.status is Status.RUNNING:
                facts = (entry.num_tokens, entry.num_drafts, entry.accepted, entry.last_row, entry.samples)
                self.seen.append((entry.seq.request.request_id, entry.seq.index, facts))


class Recorder(NullBackend):
    """Notes what every batch contained when it ran, and checks some steps later that it still does.

    recording: False for a backend that only answers.
    """

    def __init__(self, blocks: int, block_size: int, recording: bool):
        super().__init__(CacheConfig(blocks, block_size), VOCAB, [NAN], [CRASH])
        self.recording = recording
        self._noted: list[dict[str, bytes]] = []  # since `take`
        self._young: list[tuple[Batch, dict[str, bytes], bytes]] = []

    def run(self, batch: Batch) -> StepResult:
        if self.recording:
            noted = self.contents(batch)
            self._noted.append(noted)
            self._young.append((batch, noted, batch.block_tables.tobytes()))
        return super().run(batch)

    def take(self, last: bool = False) -> list[dict[str, bytes]]:
        """What the batches since the last call contained. last: there will be no other call."""
        while self._young and (last or len(self._young) > YOUNG):
            batch, noted, tables = self._young.pop(0)
            assert self.contents(batch) == noted and batch.block_tables.tobytes() == tables, "a batch has changed"
        noted_now, self._noted = self._noted, []
        return noted_now

    def contents(self, batch: Batch) -> dict[str, bytes]:
        """Everything in a batch that counts. Block tables count only within the context."""
        pairs = zip(batch.block_tables, batch.context_lens, strict=True)
        tables = [table[: -(-size // self._block_size)] for table, size in pairs]
        said = {"block_tables": b"".join(table.tobytes() for table in tables)}
        fields = asdict(batch)
        fields |= {f"sampling.{name}": value for name, value in asdict(fields.pop("sampling")).items()}
        del fields["block_tables"]
        for name, value in fields.items():
            array = np.asarray(value)
            said[name] = str((array.dtype, array.shape)).encode() + array.tobytes()
        return said


def crowd(seed: int) -> list[Request]:
    """Requests of every kind, most of them plain."""
    rng, made = random.Random(seed), []
    for index in range(CROWD):
        odd = seed % 3 != 0 and rng.random() < 0.25
        params: dict[str, Any] = {
            "temperature": rng.choice([0.0, 0.0, 0.7]),
            "max_tokens": rng.randint(1, 60),
            "n": rng.choice([1, 1, 1, 3]),
            "ignore_eos": rng.random() < 0.5,
            "min_tokens": rng.choice([0, 0, 1]),
            "stop_token_ids": rng.choice([(), (30, 31, 32)]),
            "top_p": rng.choice([1.0, 0.9]),
            "logit_bias": rng.choice([{}, {}, {5: 2.0}]),
            "allowed_token_ids": rng.choice([None, None, None, (1, 2, 3)]),
        }
        if odd:
            params |= rng.choice(
                [
                    {"logprobs": 2},
                    {"prompt_logprobs": 0},
                    {"presence_penalty": 1.0},
                    {"repetition_penalty": 1.1, "frequency_penalty": 0.3},
                ]
            )
        fields: dict[str, Any] = {
            "seed": index,
            "arrival": float(index),
            "priority": rng.choice([0, 0, 1]),
            "deadline": rng.choice([None, None, rng.uniform(0, 3)]),
            "eos_token_ids": tuple(range(20)),
            "bad_word_ids": ((7, 8), (9,)) if odd and rng.random() < 0.3 else (),
            "grammar": EveryOther() if odd and rng.random() < 0.2 else None,
            "pooling": "mean" if rng.random() < 0.05 else None,
        }
        tokens = prompt(rng.randint(1, 20), seed=rng.randint(0, 3)) + prompt(rng.randint(0, 12), seed=index + 100)
        tokens += rng.choices([NAN, CRASH, 60], [0.01, 0.02, 0.97])
        made.append(request(f"r{index}", tokens, SamplingParams(**params), **fields))
    return made


class Life:
    """An engine and its random events: requests, aborts and the clock. They depend on `seed` alone."""

    def __init__(
        self, seed: int, short: bool, settings: dict[str, Any], truth: Answers | None = None, recording: bool = True
    ):
        self.now = 0.0
        self.random = random.Random(seed)
        self.waiting = crowd(seed)[::-1]
        self.proposer = None
        if truth is not None:
            inner = RandomTrees(truth, random.Random(3)) if seed % 2 else RandomDrafts(truth, 0.7, seed=3)
            self.proposer = Occasional(inner, seed)
        self.engine = engine(proposer=self.proposer, clock=lambda: self.now, **settings)
        self.backend = Recorder(settings["blocks"], settings.get("block_size", 4), recording)
        self.engine._backend = self.backend
        self.engine.scheduler.short_path = short
        self.short_steps = 0
        self._count_short_steps()

    def _count_short_steps(self) -> None:
        commit = self.engine.scheduler.commit

        def counting(plan: Schedule, result: StepResult) -> Any:
            self.short_steps += plan.decodes is not None
            return commit(plan, result)

        self.engine.scheduler.commit = counting  # type: ignore[method-assign]

    def step(self) -> list[Any]:
        rng, busy = self.random, self.engine
        while self.waiting and rng.random() < 0.1:
            busy.add(self.waiting.pop())
        said = list(busy.abort(f"r{rng.randrange(CROWD)}")) if rng.random() < 0.02 else []
        self.now += rng.choice([0.001, 0.02])
        said += busy.step()
        busy.cache.check_integrity()
        return [facts(delta) for delta in said]

    @property
    def over(self) -> bool:
        return not self.waiting and not self.engine.has_work


def facts(delta: SequenceDelta) -> tuple[Any, ...]:
    """All of its fields, in a form that can be compared."""
    return tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in astuple(delta))


SETTINGS: list[dict[str, Any]] = [
    {"blocks": 200},
    {"blocks": 40},
    {"blocks": 30, "block_size": 16},
    {"blocks": 250, "block_size": 1},
    {"blocks": 60, "max_num_seqs": 3},
    {"blocks": 45, "max_num_batched_tokens": 6},
    {"blocks": 200, "target_itl": "auto", "policy": "deadline"},
    {"blocks": 120, "scheduler": "static", "enable_prefix_caching": False},
    {"blocks": 150, "kv_cache": "contiguous", "max_num_seqs": 4},
]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
@pytest.mark.parametrize("seed", range(4))
def test_both_paths_run_the_same_batches_and_say_the_same(
    seed: int, settings: dict[str, Any], drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "AHEAD", 5 * seed)  # block tables are outgrown
    truth = undisturbed(seed) if drafts else None
    short, ordinary = Life(seed, True, settings, truth), Life(seed, False, settings, truth)
    for _ in range(5000):
        if ordinary.over:
            break
        assert short.step() == ordinary.step()
        assert short.backend.take() == ordinary.backend.take()
    assert short.over and ordinary.over
    assert short.backend.take(last=True) == ordinary.backend.take(last=True) == []
    assert ordinary.short_steps == 0
    if drafts:
        assert short.proposer is not None and ordinary.proposer is not None
        assert short.proposer.seen == ordinary.proposer.seen
    assert counts(short.engine) == counts(ordinary.engine)


def counts(engine: Engine) -> dict[str, Any]:
    """The statistics without times."""
    return {name: value for name, value in dataclasses.asdict(engine.stats).items() if not name.endswith("_seconds")}


def undisturbed(seed: int) -> Answers:
    """The answers of the same requests without any events, for drafts."""
    return drain(engine(blocks=300), [dataclasses.replace(item, deadline=None) for item in crowd(seed)])


def test_the_short_path_is_taken_and_the_lives_are_eventful() -> None:
    """Otherwise the test above would show nothing."""
    totals: Counter[str] = Counter()
    for seed in range(4):
        for settings in SETTINGS:
            life = Life(seed, True, settings, recording=False)
            while not life.over:
                life.step()
            stats = life.engine.stats
            totals.update(stats.finished)
            totals.update(steps=stats.steps, short=life.short_steps, preemptions=stats.preemptions)
            totals.update(errors=stats.backend_errors, hits=stats.prefix_hits)
    assert totals["short"] > 0.2 * totals["steps"], totals
    assert all(totals[kind] for kind in ("stop", "length", "abort", "deadline", "error", "preemptions", "hits")), totals
    assert totals["errors"]
