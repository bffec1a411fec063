"""The draft model's cache: on the null backend any bookkeeping mistake makes its drafts wrong."""

from __future__ import annotations

import random

import pytest

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.kv.manager import create
from octavo.sampling_params import SamplingParams
from octavo.spec.draft_model import ModelDrafter
from octavo.spec.proposer import Fixed, Guess
from octavo.types import Batch, Request, Sequence, StepResult
from tests.unit.control import VOCAB, Answers, drain, prompt, request

CONFIG = EngineConfig(block_size=4, max_model_len=128, max_num_seqs=8, max_num_batched_tokens=32)


class Unsure(NullBackend):
    """Sometimes gives the right token plus one, so that later drafts follow a wrong token."""

    def __init__(self, cache: CacheConfig, share: float):
        super().__init__(cache, VOCAB)
        self.random, self.share = random.Random(5), share

    def run(self, batch: Batch) -> StepResult:
        result = super().run(batch)
        for row in range(len(result.token_ids)):
            if self.random.random() < self.share:
                result.token_ids[row] = (result.token_ids[row] + 1) % VOCAB
        return result


class Watched(ModelDrafter):
    """Checks each draft against the known answer: its first wrong token must be one that was made wrong on purpose."""

    answers: Answers
    seen = 0

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        guesses = super().draft(sequences, limits)
        self._cache.check_integrity()
        for seq, guess in zip(sequences, guesses, strict=True):
            coming = self.answers[seq.request.request_id, seq.index].token_ids[seq.num_output_tokens :]
            for token, right in zip(guess.tokens, coming, strict=False):
                self.seen += 1
                if token != right:
                    assert token == (right + 1) % VOCAB
                    break
        return guesses


def items() -> list[Request]:
    made = [
        request(str(i), prompt(3 + 11 * i, seed=i), SamplingParams(temperature=i % 2, max_tokens=20 + i), seed=i)
        for i in range(7)
    ]
    made.append(request("again", prompt(3 + 11 * 6, seed=6), SamplingParams(temperature=0, max_tokens=9)))
    return [*made, request("many", prompt(30, seed=99), SamplingParams(n=3, temperature=1, max_tokens=20), seed=9)]


def speculative(share: float, draft_blocks: int, blocks: int, answers: Answers) -> tuple[Engine, Watched]:
    own, cache = CacheConfig(draft_blocks, 4), CacheConfig(blocks, 4)
    drafter = Watched(Unsure(own, share), create(CONFIG, own), VOCAB, max_tokens=32)
    drafter.answers = answers
    return Engine(NullBackend(cache, VOCAB), CONFIG, cache, VOCAB, Fixed(drafter, 4)), drafter


def plain(requests: list[Request]) -> Answers:
    cache = CacheConfig(400, 4)
    return drain(Engine(NullBackend(cache, VOCAB), CONFIG, cache, VOCAB), requests)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize(("draft_blocks", "blocks"), [(400, 400), (40, 400), (400, 30), (30, 30)])
def test_drafts_rest_on_the_right_context(share: float, draft_blocks: int, blocks: int) -> None:
    answers = plain(items())
    engine, drafter = speculative(share, draft_blocks, blocks, answers)
    assert drain(engine, items()) == answers
    assert drafter.seen > 40
    assert share > 0 or engine.stats.accepted_tokens == engine.stats.draft_tokens
    assert blocks > 100 or engine.stats.preemptions > 0


def test_a_prompt_longer_than_a_batch_is_caught_up_with_in_several_steps() -> None:
    long = [request("long", prompt(90), SamplingParams(temperature=0, max_tokens=30))]
    answers = plain(long)
    engine, _ = speculative(0.0, 100, 100, answers)
    engine.add(long[0])
    while not engine.scheduler.decoding():
        engine.step()
    drafted = []
    for _ in range(5):
        before = engine.stats.draft_tokens
        engine.step()
        drafted.append(engine.stats.draft_tokens - before)
    assert drafted[:2] == [0, 0] and drafted[-1] == 4, "91 tokens at 32 a step"
    assert engine.stats.accepted_tokens == engine.stats.draft_tokens


def test_its_prefix_cache_is_used() -> None:
    shared = prompt(80)
    twice = [request(name, shared, SamplingParams(temperature=0, max_tokens=12)) for name in "ab"]
    engine, drafter = speculative(0.0, 100, 100, plain(twice))
    drain(engine, [twice[0]])
    engine.add(twice[1])
    while not engine.scheduler.decoding():
        engine.step()
    engine.step()
    assert engine.stats.draft_tokens > 0
    (shadow,) = [drafter._shadows[seq] for seq in drafter._shadows if seq.request.request_id == "b"]
    assert shadow.seq.num_computed_tokens >= 80
    before = engine.stats.draft_tokens
    engine.step()
    assert engine.stats.draft_tokens > before


def test_blocks_of_those_who_left_come_back() -> None:
    answers = plain(items())
    engine, drafter = speculative(0.0, 400, 400, answers)
    drain(engine, items())
    drafter.draft([], [])
    assert drafter._cache.usage == 0
