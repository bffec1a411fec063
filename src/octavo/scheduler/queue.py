"""The request queue: every unfinished sequence waits, loads or runs. Those that load or run hold cache blocks.

             add           admit                    end
(request) -------> waiting -----> running --------------> (finished)
                    ^    |         ^ |
                    |    +-> loading |
                    +----------------+ preempt
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable

from octavo.config import EngineConfig
from octavo.errors import RequestError
from octavo.kv.eviction import parse, refusal
from octavo.kv.manager import CacheManager
from octavo.scheduler import admission, policy
from octavo.scheduler.deadlines import Deadlines
from octavo.scheduler.stats import Stats
from octavo.types import Request, Sequence, SequenceDelta, Status


class RequestQueue:
    """waiting, loading, running: in policy order. loading: admitted, but some of their blocks are still being read from
    a tier below the pool (`kv.offload`). prefilling: running sequences that have not sampled since admission.
    siblings[seq]: sequences that wait to share the prompt of `seq` (n > 1).

    changes: counts every change of `waiting` and `running`, so that callers can detect one.
    """

    def __init__(self, config: EngineConfig, cache: CacheManager, clock: Callable[[], float] = time.monotonic):
        assert config.max_model_len is not None
        self.stats = Stats()
        self.cache = cache
        self.waiting: list[Sequence] = []
        self.loading: list[Sequence] = []
        self.running: list[Sequence] = []
        self.prefilling: set[Sequence] = set()
        self.siblings: dict[Sequence, list[Sequence]] = {}
        self.changes = 0
        self._refused = -1  # `changes` when the cache had no room for the first waiting sequence
        self._requests: dict[str, list[Sequence]] = {}  # the unfinished sequences of each request
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._order = policy.order(config.policy)
        self._max_seqs = config.max_num_seqs
        self._max_len = config.max_model_len
        self._config = config

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def room(self) -> int:
        """The number of further sequences that may run."""
        return self._max_seqs - len(self.running) - len(self.loading)

    @property
    def holders(self) -> list[Sequence]:
        """The sequences that hold blocks, in policy order."""
        return sorted(self.running + self.loading, key=self._order) if self.loading else self.running

    def add(self, request: Request) -> list[Sequence]:
        """Queues the request; returns its sequences. Raises RequestError or CapacityError if it can never run."""
        if request.request_id in self._requests:
            raise RequestError(f"request_id {request.request_id!r} is in use by an unfinished request", "request_id")
        admission.check(request, self._max_len, self.cache.capacity, self.cache.block_size)
        first, *siblings = sequences = self._sequences(request)
        if first.eviction and (reason := refusal(first.eviction, self._config, self.cache.evictions)):
            raise RequestError(reason, "kv_eviction")
        self._requests[request.request_id] = list(sequences)
        if siblings:
            self.siblings[first] = siblings
        self._deadlines.add(request)
        self.wait(first)
        return sequences

    def _sequences(self, request: Request) -> list[Sequence]:
        prompt, answers = request.prompt_token_ids, 1 if request.pooling is not None else request.params.n
        limit = admission.max_length(request, self._max_len, self.cache.capacity)
        eviction = parse(request.params.kv_eviction)
        return [Sequence(request, index, list(prompt), len(prompt), limit, eviction) for index in range(answers)]

    def wait(self, seq: Sequence) -> None:
        self.changes += 1
        seq.status = Status.WAITING
        insort(self.waiting, seq, key=self._order)

    @property
    def may_admit(self) -> bool:
        """Whether `admit` could succeed."""
        return bool(self.waiting) and self.room > 0 and self._refused != self.changes

    def reconsider(self) -> None:
        """Lets a sequence that was refused try again: a prompt may become its cached prefix after all."""
        self._refused = -1

    def admit(self) -> Sequence | None:
        """Admits the first waiting sequence if it fits. Admission is strictly in order: no sequence overtakes a large
        one. It may have to load first: see `arrive`.

        One block is held back for each running sequence, which will soon need it. Otherwise that sequence would preempt
        the new one at once. While nothing changes no block is freed, so a refusal is remembered, unless prompts are
        being computed or loaded: they may become a cached prefix of a waiting sequence.
        """
        if not self.may_admit:
            return None
        seq = self.waiting[0]
        if not self.cache.admit(seq, keep_free=len(self.running) + len(self.loading)):
            self._refused = -1 if self.prefilling or self.loading else self.changes
            return None
        del self.waiting[0]
        if self.cache.is_loading(seq):
            self.changes += 1
            seq.status = Status.LOADING
            insort(self.loading, seq, key=self._order)
        else:
            self._start(seq)
        return seq

    def arrive(self) -> None:
        """Starts the sequences whose blocks have been loaded."""
        if self.cache.settle(0):
            self.reconsider()
        for seq in self.cache.poll():
            self.loading.remove(seq)
            self._start(seq)

    def _start(self, seq: Sequence) -> None:
        self._run(seq)
        self.prefilling.add(seq)
        self._count_admission(seq)

    def _run(self, seq: Sequence) -> None:
        self.changes += 1
        seq.status = Status.RUNNING
        if seq.scheduled is None:
            seq.scheduled = self._clock()
        insort(self.running, seq, key=self._order)

    def _count_admission(self, seq: Sequence) -> None:
        if seq.num_preemptions:
            return
        seq.num_cached_tokens = seq.num_computed_tokens
        self.stats.prefix_queries += len(seq.token_ids)
        self.stats.prefix_hits += seq.num_computed_tokens
        self.stats.prompt_tokens += seq.num_prompt_tokens if seq.index == 0 else 0

    def preempt(self, seq: Sequence) -> None:
        """Frees the sequence's blocks and queues it again. It keeps its tokens. They are not sampled again. They are
        computed again, unless their blocks are still there or come back (`kv.offload`)."""
        self.changes += 1
        self._hold_no_more(seq)
        self.cache.free(seq)
        seq.num_computed_tokens = 0
        seq.num_preemptions += 1
        seq.drafts = []
        self.stats.preemptions += 1
        self.wait(seq)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Starts a sibling from the parent's cache, or queues it to compute its own if it cannot share."""
        if self.room > 0 and self.cache.fork(parent, child):
            child.num_cached_tokens = child.num_computed_tokens
            self._run(child)
        else:
            self.wait(child)

    def end(self, seq: Sequence, reason: str) -> None:
        """Ends one sequence and frees its blocks. After an error, no other sequence may share its blocks' content."""
        self.changes += 1
        if seq.status in (Status.RUNNING, Status.LOADING):
            self._hold_no_more(seq)
        elif seq in self.waiting:  # a sibling waiting for its prompt is in neither list
            self.waiting.remove(seq)
        if reason == "error":
            self.cache.discard(seq)
        else:
            self.cache.free(seq)
        seq.status, seq.finish_reason, seq.drafts = Status.FINISHED, reason, []
        self.siblings.pop(seq, None)
        self._forget(seq)
        self.stats.finished[reason] += 1

    def _hold_no_more(self, seq: Sequence) -> None:
        (self.loading if seq.status is Status.LOADING else self.running).remove(seq)
        self.prefilling.discard(seq)

    def _forget(self, seq: Sequence) -> None:
        sequences = self._requests[seq.request.request_id]
        sequences.remove(seq)
        if not sequences:
            del self._requests[seq.request.request_id]
            self._deadlines.remove(seq.request)

    def end_request(self, request_id: str, reason: str) -> list[SequenceDelta]:
        """Ends a request's unfinished sequences; an empty list if it is unknown or has ended."""
        deltas = []
        for seq in list(self._requests.get(request_id, ())):
            self.end(seq, reason)
            deltas.append(seq.delta())
        return deltas

    def expire(self) -> list[SequenceDelta]:
        """Ends the requests whose deadline has passed."""
        return [delta for request_id in self._deadlines.passed() for delta in self.end_request(request_id, "deadline")]
