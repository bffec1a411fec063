"""The short path: a step in which every running sequence decodes one token, as in the previous step.

Most steps are of this kind and change little but positions. A `DecodeBatch` keeps the arrays of such a step and
advances them by one token; `batch` and `commit` would rebuild everything from the sequences. For each sequence, Python
only appends its new token, and asks the cache for a slot only when a block is full.

It is valid while `RequestQueue.changes` is unchanged. Prompts, drafts, grammars, penalties, bad words and logprobs
take the ordinary path. So does the commit of a step in which a sequence may end or a row is not finite. Both paths
build the same batches and the same deltas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from octavo.kv.manager import CacheManager
from octavo.sampling.arrays import moved
from octavo.types import (
    I32,
    I64,
    Batch,
    SamplingArrays,
    ScheduledSequence,
    Sequence,
    SequenceDelta,
    SinkRecent,
    StepResult,
)

Row = tuple[Sequence, int]  # a logit row: the sequence, and the index in it of the token the row chooses
BuildSampling = Callable[[list[Row]], SamplingArrays]

AHEAD = 128  # tokens that block tables have room for beyond the longest context: they are gathered less often
RUN = 8  # steps whose positions are computed at once
STEPS = np.arange(1, RUN + 1, dtype=np.int32)[:, None, None]


def plain(sequences: list[Sequence]) -> bool:
    """Whether only the position of each sequence changes from one token to the next."""
    for seq in sequences:
        params, sampler = seq.request.params, seq.sampler
        if isinstance(seq.eviction, SinkRecent):  # its table shrinks while it decodes
            return False
        if params.logprobs is not None or params.prompt_logprobs is not None:
            return False
        if sampler is None or len(seq.token_ids) < sampler.steady_from:
            return False
    return True


class DecodeBatch:
    """The batch of these decoding sequences. Each has one token that has not been run.

    A batch that it built stays as it is (see `types.Batch`): arrays that advance are replaced. Between two steps the
    model's weights have swept the caches, so what counts is how much code and how many objects a step touches.

    full: (row, sequence) of those whose next slot is in another block: they need it before the next step.
    """

    def __init__(self, cache: CacheManager, sequences: list[Sequence], changes: int):
        self.changes = changes
        rows = list(enumerate(sequences))
        self.entries = [ScheduledSequence(seq, 1, 0, row, row + 1, True, last_row=row) for row, seq in rows]
        self.full = rows  # at first it is not known; a fork may still share its last block
        self._cache = cache
        self._sequences = list(sequences)
        self._by_offset: list[list[tuple[int, Sequence]]] = [[] for _ in range(cache.block_size)]  # of its first slot
        for row, seq in rows:
            self._by_offset[seq.kv_length % cache.block_size].append((row, seq))
        self._steps = 0  # that the arrays have been moved by
        self._committed = 0  # steps; one less than the above while a step runs ahead
        # no sequence reaches its limit within these steps
        self._safe_steps = min(seq.max_length - len(seq.token_ids) for seq in sequences) - 1
        self._ends = frozenset(token for seq in sequences for token in _ends(seq))
        self._token_ids: I32 = np.array([seq.token_ids[-1] for seq in sequences], np.int32)
        self._places: I32 = np.zeros((RUN, 3, 0), np.int32)  # of each step of a run: positions, contexts, slots
        self._chosen: I64 = np.zeros((RUN, 0), np.int64)  # likewise, positions of the tokens that are chosen
        self._block_tables: I32 = np.zeros((0, 0), np.int32)
        self._starts = np.arange(len(sequences) + 1, dtype=np.int32)
        self._targets = np.full(len(sequences), -1, np.int32)
        self._sampling: SamplingArrays | None = None

    def build(self, build_sampling: BuildSampling, want_hidden: bool) -> Batch:
        """Builds the next step's batch. Each sequence in `full` must have its slot already."""
        if self._sampling is None:
            self._sampling = build_sampling([(seq, len(seq.token_ids)) for seq in self._sequences])
            self._place_all()
        elif self.full:
            self._place_full()
        step = self._steps % RUN
        positions, contexts, slots = self._places[step]
        return Batch(
            token_ids=self._token_ids,
            positions=positions,
            slot_mapping=slots,
            query_starts=self._starts,
            context_lens=contexts,
            block_tables=self._block_tables,
            logit_rows=self._starts[:-1],
            targets=self._targets,
            sampling=moved(self._sampling, self._chosen[step]),
            want_hidden=want_hidden,
        )

    def _place_all(self) -> None:
        placed = self._cache.tables.place(self._sequences, [1] * len(self._sequences))
        self._start_run(np.stack([placed.positions, placed.context_lens, placed.slot_mapping]) - 1)
        self._block_tables = self._widened()

    def _start_run(self, last: I32) -> None:
        """last [3, S]: the places of the step before."""
        self._places = last + STEPS
        self._chosen = self._places[:, 0].astype(np.int64) + 1

    def _widened(self) -> I32:
        """The block tables, with room for some more steps."""
        tables, longest = self._cache.tables, max(seq.kv_length for seq in self._sequences)
        rows = np.array([tables.rows[seq] for seq in self._sequences], np.int32)
        return tables.gather(rows, longest + 1 + AHEAD)

    def _place_full(self) -> None:
        """The others go on in the same block, where each slot is the last one's + 1."""
        tables, size = self._cache.tables, self._cache.block_size
        blocks = self._block_tables.copy()
        for row, seq in self.full:
            index = seq.kv_length // size
            if index >= blocks.shape[1]:
                blocks = self._widened()
            blocks[row, index] = seq.block_table[index]
            slot = tables.slot(seq, seq.kv_length)
            for later, step in enumerate(range(self._steps % RUN, RUN)):
                self._places[step, 2, row] = slot + later
        self._block_tables = blocks

    def commit(self, result: StepResult) -> list[SequenceDelta] | None:
        """Applies the step if every sequence continues. Returns None and changes nothing if `Commit` must handle it."""
        tokens: list[int] = result.token_ids.tolist()
        if self._committed == self._safe_steps or not self._ends.isdisjoint(tokens) or not all(result.finite.tolist()):
            return None
        deltas: list[SequenceDelta] = []
        for seq, token in zip(self._sequences, tokens, strict=True):
            seq.token_ids.append(token)
            seq.num_computed_tokens += 1
            seq.kv_length += 1
            deltas.append(delta := seq.delta())
            delta.token_ids.append(token)
        self._committed += 1
        for _, seq in self._by_offset[-self._committed % self._cache.block_size]:
            self._cache.commit(seq, seq.kv_length - 1)
        if self._steps < self._committed:
            self._move_on(result.token_ids)
        return deltas

    def move_on_unknown(self) -> None:
        """Advances the arrays by a step that is not committed yet: see `scheduler.ahead`."""
        self._move_on(-1 - self._starts[:-1])

    def _move_on(self, token_ids: I32) -> None:
        self._token_ids = token_ids
        self._steps += 1
        if self._steps % RUN == 0:
            self._start_run(self._places[-1])
        self.full = self._by_offset[-self._steps % self._cache.block_size]


def _ends(seq: Sequence) -> tuple[int, ...]:
    """The tokens that may end the sequence."""
    request, params = seq.request, seq.request.params
    return params.stop_token_ids if params.ignore_eos else (*request.eos_token_ids, *params.stop_token_ids)
