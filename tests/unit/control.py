"""Small engines on the null backend, for the tests of the control plane."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig
from octavo.engine import Engine
from octavo.kv.store import Tier
from octavo.sampling_params import SamplingParams
from octavo.scheduler import tree
from octavo.spec.proposer import Proposer
from octavo.types import Request, Sequence, SequenceDelta, TokenLogprob

VOCAB = 997
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def engine(
    *,
    blocks: int = 64,
    block_size: int = 4,
    proposer: Proposer | None = None,
    nan_tokens: Iterable[int] = (),
    crash_tokens: Iterable[int] = (),
    clock: Callable[[], float] = time.monotonic,
    tiers: Many[Tier] = (),
    kind: type[NullBackend] = NullBackend,
    **settings: Any,
) -> Engine:
    defaults: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 8, "max_num_batched_tokens": 32}
    config = EngineConfig(block_size=block_size, **(defaults | settings))
    cache = CacheConfig(blocks, block_size)
    return Engine(kind(cache, VOCAB, nan_tokens, crash_tokens), config, cache, VOCAB, proposer, clock, tiers)


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(50, VOCAB), k=length)


def request(name: str, tokens: Many[int], params: SamplingParams = GREEDY, **fields: Any) -> Request:
    fields.setdefault("arrival", 0.0)
    return Request(name, list(tokens), params, **fields)


@dataclass
class Answer:
    """Everything that the deltas of one sequence contained."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    hidden: list[list[float]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None


Answers = dict[tuple[str, int], Answer]


def collect(answers: Answers, deltas: list[SequenceDelta]) -> None:
    for delta in deltas:
        answer = answers[delta.request_id, delta.index]
        assert answer.finish_reason is None, "a delta after the last"
        answer.token_ids += delta.token_ids
        answer.logprobs += delta.logprobs or []
        answer.prompt_logprobs += delta.prompt_logprobs or []
        answer.hidden += [] if delta.hidden is None else delta.hidden.tolist()
        answer.finish_reason, answer.stop_reason = delta.finish_reason, delta.stop_reason


def drain(engine: Engine, requests: Iterable[Request] = (), max_steps: int = 20_000) -> Answers:
    """Adds the requests and runs the engine until it is idle. Checks its invariants after every step."""
    answers: Answers = defaultdict(Answer)
    sequences = [seq for item in requests for seq in engine.add(item)]
    for _ in range(max_steps):
        if not engine.has_work:
            break
        collect(answers, engine.step())
        engine.cache.check_integrity()
    assert not engine.has_work, "livelock"
    assert engine.cache.usage == 0, "blocks leaked"
    for seq in sequences:
        made = seq.token_ids[seq.num_prompt_tokens :]
        assert answers[seq.request.request_id, seq.index].token_ids == made, "the deltas do not add up"
    return dict(answers)


class RandomDrafts:
    """Drafts 0 to `most` tokens: each right with probability `skill`, as known from `answers`, else random."""

    def __init__(self, answers: Answers, skill: float, most: int = 5, seed: int = 0):
        self._answers, self._skill, self._most = answers, skill, most
        self._random = random.Random(seed)

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            known = self._answers[seq.request.request_id, seq.index].token_ids[seq.num_output_tokens :]
            count = self._random.randint(0, self._most)
            right = (known + [0] * count)[:count]
            seq.drafts = [
                token if self._random.random() < self._skill else self._random.randrange(VOCAB) for token in right
            ]


@dataclass
class RandomTrees:
    """Random trees in which many tokens are right, as known from `answers`."""

    answers: Answers
    random: random.Random

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            known = self.answers[seq.request.request_id, seq.index].token_ids[seq.num_output_tokens :]
            tokens: list[int] = []
            parents: list[int] = []
            for _ in range(self.random.randint(0, 8)):
                parent = self.random.randint(-1, len(tokens) - 1)
                depth = 0 if parent < 0 else tree.depths(parents)[parent]
                right = known[depth] if depth < len(known) else 0
                tokens.append(right if self.random.random() < 0.6 else self.random.randrange(50, VOCAB))
                parents.append(parent)
            seq.drafts, seq.draft_parents = tokens, parents
