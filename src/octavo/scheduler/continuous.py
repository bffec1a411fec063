"""Continuous batching with chunked prefill (Orca, OSDI 22; Sarathi, 2308.16369).

Each step first schedules decoding sequences, one token (and drafts) each, so a long prompt never stalls them. Prompts
then get the rest of the token budget, in policy order, or less if that would take too long (`pace`). A step that
decodes the same sequences as the previous step takes the short path (`decode`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octavo.config import EngineConfig
from octavo.kv.manager import CacheManager
from octavo.kv.swap_costs import SwapCosts
from octavo.scheduler.ahead import Assumption, WouldPreempt, foreseeable
from octavo.scheduler.batch import Schedule, scored_positions
from octavo.scheduler.commit import Commit
from octavo.scheduler.decode import DecodeBatch, plain
from octavo.scheduler.pace import Pace
from octavo.scheduler.queue import RequestQueue
from octavo.scheduler.victims import VICTIMS
from octavo.types import Request, Sequence, SequenceDelta, Status, StepResult

SETTLE = 0.02  # seconds to wait for blocks of loads that were given up, before a sequence is preempted
SCORED_ROWS = 64  # most prompt tokens scored in one step: each needs a logit row of V float32


class ContinuousScheduler:
    """short_path: False makes every step take the ordinary path, for comparison. It may be changed between steps."""

    short_path = True

    def __init__(self, config: EngineConfig, cache: CacheManager, clock: Callable[[], float] = time.monotonic):
        assert config.max_model_len is not None
        self._queue = RequestQueue(config, cache, clock)
        self._cache = cache
        self._clock = clock
        self._costs: SwapCosts | None = None  # see `learn_costs`
        self._pace = None if config.target_itl is None else Pace(config.target_itl)
        self._decodes: DecodeBatch | None = None
        self._ended = 0.0  # when the last step was committed, if there is a pace
        self._assumed: Assumption | None = None  # of the step before the one that is being scheduled
        self._victim = VICTIMS[config.preemption_victim]
        self._gathers = config.kv_compaction
        self._chunked = config.enable_chunked_prefill
        self._budget = config.max_num_batched_tokens
        if not self._chunked:  # a whole prompt must fit into one step
            self._budget = max(self._budget, config.max_model_len)
        self.stats = self._queue.stats

    def learn_costs(self, costs: SwapCosts) -> None:
        """Lets these costs know what prompt tokens take from now on."""
        self._costs = costs

    @property
    def has_work(self) -> bool:
        return self._queue.has_work

    def add(self, request: Request) -> list[Sequence]:
        """Queues the request; returns its sequences. Raises RequestError or CapacityError if it can never run."""
        return self._queue.add(request)

    def end_request(self, request_id: str, reason: str) -> list[SequenceDelta]:
        """Ends a request's unfinished sequences and frees their blocks; an empty list if it is unknown or has ended."""
        return self._queue.end_request(request_id, reason)

    def decoding(self) -> list[Sequence]:
        """The sequences that decode in the next step. A proposer may draft for these."""
        others = self._queue.prefilling
        if self._assumed is not None:
            others = others | self._assumed.ending
        if not others:
            return list(self._queue.running)
        return [seq for seq in self._queue.running if seq not in others]

    def schedule(self) -> Schedule:
        """Picks the sequences of the next step and reserves the slots of their tokens. There may be none, while all of
        them load.

        Within `assume`, the plan is empty if the step must wait: it would preempt a sequence."""
        self._queue.arrive()
        plan = Schedule(self._budget, SCORED_ROWS if self._chunked else self._budget)
        plan.finished = self._queue.expire()
        if self._gathers and self._assumed is None and self._cache.gather():
            self._decodes = None  # it has copies of the tables
        try:
            if not self._take_short_path(plan):
                self._decodes = None
                self._decode(plan)
                self._limit_prompts(plan)
                self._admit(plan.budget)
                self._prefill(plan)
        except WouldPreempt:
            self.drop(plan)
        self._measure(plan)
        plan.began = self._clock()
        return plan

    def drop(self, plan: Schedule) -> None:
        """Empties a plan that will not run. What it reserved stays reserved."""
        plan.entries, plan.decodes = [], None
        self.leave_short_path()

    def leave_short_path(self) -> None:
        """Must be called if a step is not committed as it was scheduled."""
        self._decodes = None

    def foresees(self, plan: Schedule) -> bool:
        """Whether the step after this one can be scheduled before its result is known: see `scheduler.ahead`."""
        return plan.decodes is not None or foreseeable(self._queue, plan.entries)

    @contextmanager
    def assume(self, plan: Schedule) -> Iterator[None]:
        """Meanwhile, sequences look as if this step had been committed, so that the next one can be scheduled."""
        self._assumed = Assumption(self._queue, plan.entries)
        if plan.decodes is not None and plan.decodes is self._decodes:
            plan.decodes.move_on_unknown()
        try:
            yield
        finally:
            self._assumed.undo()
            self._assumed = None

    def commit(self, plan: Schedule, result: StepResult) -> list[SequenceDelta]:
        """Applies the step's results: tokens, stop rules, blocks. Returns one delta for each sequence with news."""
        if self._pace or self._costs:
            self._learn(plan)
        decodes = plan.decodes
        if decodes is not None and decodes is self._decodes:
            if decodes.changes == self._queue.changes and (deltas := decodes.commit(result)) is not None:
                self.stats.generation_tokens += len(deltas)
                return deltas
            self._decodes = None
        return Commit(self._queue, plan.entries, result).deltas()

    def _learn(self, plan: Schedule) -> None:
        """Takes note of what the step has cost."""
        now = self._clock()
        sizes = [(entry.num_tokens, entry.seq in self._queue.prefilling) for entry in plan.entries]
        rows, prompt = (sum(size for size, prefills in sizes if prefills is kind) for kind in (False, True))
        seconds, self._ended = now - max(plan.began, self._ended), now
        if self._pace:
            self._pace.observe(rows, prompt, seconds)
        if self._costs and prompt > rows:  # else its share of the step is not known well
            self._costs.computed(prompt, seconds * prompt / (prompt + rows))

    def _take_short_path(self, plan: Schedule) -> bool:
        """Fills the plan by the short path if every running sequence decodes one plain token and no other can join."""
        queue, running = self._queue, self._queue.running
        if not self.short_path or queue.prefilling or self._may_admit() or not 0 < len(running) <= plan.budget:
            return False
        if self._assumed is not None and self._assumed.ending:
            return False
        if any([seq.drafts for seq in running]):
            return False
        decodes = self._decodes
        if decodes is None or decodes.changes != queue.changes:
            decodes = self._decodes = DecodeBatch(self._cache, running, queue.changes) if plain(running) else None
        if decodes is None:
            return False
        for _, seq in decodes.full:
            if not self._reserve(seq, 1) or decodes.changes != queue.changes:  # a sequence was preempted
                return False
        plan.decodes, plan.entries = decodes, decodes.entries
        return True

    def _may_admit(self) -> bool:
        return self._queue.may_admit

    def _decode(self, plan: Schedule) -> None:
        decoding = self.decoding()
        spare = max(0, plan.budget - len(decoding))  # drafts get the budget left after one token for each sequence
        for seq in decoding:
            if plan.budget == 0:
                break
            if seq.drafts:
                slots = self._cache.tables.most_slots - seq.kv_length
                del seq.drafts[min(spare, max(0, min(seq.max_length - len(seq.token_ids), slots) - 1)) :]
            if seq.status is Status.RUNNING and self._reserve(seq, 1):  # else it was preempted earlier in this loop
                spare -= len(seq.drafts)
                plan.add(seq, 1 + len(seq.drafts), samples=True)
        plan.remove_preempted()

    def _reserve(self, seq: Sequence, tokens: int) -> bool:
        """Reserves slots for the next tokens of `seq` and its drafts. Returns False if `seq` itself was preempted.

        When blocks run out, its drafts are dropped first, then other sequences are preempted.

        The first sequence in policy order is never preempted while others hold blocks, so it always finishes: no
        livelock. Alone it fits, unless a load that was given up still writes to blocks; then it waits for these.
        """
        while not self._cache.grow(seq, tokens + len(seq.drafts)):
            if seq.drafts:
                seq.drafts = []
                continue
            if self._assumed is not None:
                raise WouldPreempt
            if self._cache.settle(SETTLE):
                continue
            loser = self._victim(self._queue.holders[1:] or self._queue.holders)
            self._queue.preempt(loser)
            if loser is seq:
                return False
        return True

    def _limit_prompts(self, plan: Schedule) -> None:
        """Limits prompt tokens to what can be computed without stalling decoding sequences."""
        queue = self._queue
        starting = len(queue.prefilling) + min(len(queue.waiting), queue.room)
        if self._pace and self._chunked and starting:
            rows = self._budget - plan.budget
            room = self._pace.room(rows, len(plan.entries), starting)
            plan.budget = plan.budget if room is None else min(plan.budget, room)

    def _admit(self, budget: int) -> None:
        """Admits waiting sequences while the step has token budget. Later admission finds longer cached prefixes."""
        room = budget - sum(map(_remaining, self._queue.prefilling))
        while room > 0 and (seq := self._queue.admit()):
            room -= _remaining(seq) if seq.status is Status.RUNNING else 0

    def _prefill(self, plan: Schedule) -> None:
        prefilling, room = self._queue.prefilling, self._queue.room
        if not prefilling:
            return
        for seq in [seq for seq in self._queue.running if seq in prefilling]:
            if seq.status is not Status.RUNNING:  # preempted for one before it
                continue
            size = self._chunk_size(seq, plan)
            if size == 0:
                break
            if seq.eviction is not None and not self._reserve(seq, size):  # the others hold their blocks already
                continue
            last = size == _remaining(seq)
            forks = self._queue.siblings.get(seq, [])[:room] if last else []
            room -= len(forks)
            plan.scored_rows -= len(scored_positions(seq, size))
            plan.add(seq, size, last, forks)
        plan.remove_preempted()

    def _chunk_size(self, seq: Sequence, plan: Schedule) -> int:
        size = min(_remaining(seq), plan.budget)
        if seq.eviction is not None:  # its blocks may be fewer than its tokens
            size = min(size, max(1, self._cache.room(seq)))
            if seq.num_computed_tokens < seq.num_prompt_tokens:  # at its end snapkv chooses what is kept
                size = min(size, seq.num_prompt_tokens - seq.num_computed_tokens)
        elif size < _remaining(seq) and not self._chunked:
            return 0
        scored = scored_positions(seq, size)
        if len(scored) > plan.scored_rows:
            return scored.start - seq.num_computed_tokens + plan.scored_rows
        return size

    def _measure(self, plan: Schedule) -> None:
        stats = self.stats
        stats.running = len(self._queue.running)
        stats.waiting = len(self._queue.waiting) + len(self._queue.loading)
        stats.kv_usage = self._cache.usage
        stats.step_tokens = plan.num_tokens


def _remaining(seq: Sequence) -> int:
    return len(seq.token_ids) - seq.num_computed_tokens
