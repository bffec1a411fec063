"""The short path: a step in which everyone who runs decodes one token, as everyone did in the step before.

Most steps are of this kind, and change little but positions. A `DecodeBatch` keeps the arrays of such a step and moves
them on by one token, where `batch` and `commit` would make everything anew from the sequences. What is left to Python
for each sequence is its new token, and the cache is asked only where a block is full.

It holds as long as `RequestQueue.changes` is what it was. Prompts, drafts, grammars, penalties, bad words and logprobs
take the ordinary path, and so does the end of a step in which a sequence may end or a row is not finite. Both paths
make the same batches and the same deltas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from octavo.kv.manager import CacheManager
from octavo.sampling.arrays import advanced
from octavo.types import I32, Batch, SamplingArrays, ScheduledSequence, Sequence, SequenceDelta, StepResult

Row = tuple[Sequence, int]  # a logit row: the sequence, and the index in it of the token the row chooses
BuildSampling = Callable[[list[Row]], SamplingArrays]


def plain(sequences: list[Sequence]) -> bool:
    """Whether nothing but its position changes for any of them from one token to the next."""
    for seq in sequences:
        params, sampler = seq.request.params, seq.sampler
        if params.logprobs is not None or params.prompt_logprobs is not None:
            return False
        if sampler is None or len(seq.token_ids) < sampler.steady_from:
            return False
    return True


class DecodeBatch:
    """Of these sequences, which decode: each has one token that has not been run.

    A batch that it built stays as it is (see `types.Batch`): what moves on is made anew, not written to.

    full: the sequences that need a slot in another block before the next step.
    """

    def __init__(self, cache: CacheManager, sequences: list[Sequence], changes: int):
        self.changes = changes
        rows = enumerate(sequences)
        self.entries = [ScheduledSequence(seq, 1, 0, row, row + 1, True, last_row=row) for row, seq in rows]
        self.full = list(sequences)  # at first it is not known; a fork may still share its last block
        self._cache = cache
        self._sequences = list(sequences)
        self._by_offset: list[list[Sequence]] = [[] for _ in range(cache.block_size)]  # of the first token in its block
        for seq in sequences:
            self._by_offset[seq.kv_length % cache.block_size].append(seq)
        self._steps = 0
        self._safe_steps = min(seq.max_length - len(seq.token_ids) for seq in sequences) - 1  # nobody gets to its limit
        self._ends = frozenset(token for seq in sequences for token in _ends(seq))
        self._rows = _array([cache.tables.rows[seq] for seq in sequences])
        self._token_ids = _array([seq.token_ids[-1] for seq in sequences])
        self._positions = _array([seq.num_computed_tokens for seq in sequences])
        self._indices = _array([seq.kv_length for seq in sequences])  # of the tokens' KV
        self._longest = max(seq.kv_length for seq in sequences)
        self._starts = np.arange(len(sequences) + 1, dtype=np.int32)
        self._targets = np.full(len(sequences), -1, np.int32)
        self._block_tables: I32 = np.zeros((0, 0), np.int32)  # gathered whenever `full` is not empty
        self._sampling: SamplingArrays | None = None

    def build(self, build_sampling: BuildSampling, want_hidden: bool) -> Batch:
        """The next step's, for which each of `full` has got its slot."""
        tables = self._cache.tables
        if self.full:
            self._block_tables = tables.gather(self._rows, self._longest + 1)
        if self._sampling is None:
            self._sampling = build_sampling([(seq, len(seq.token_ids)) for seq in self._sequences])
        return Batch(
            token_ids=self._token_ids,
            positions=self._positions,
            slot_mapping=tables.slots(self._rows, self._indices),
            query_starts=self._starts,
            context_lens=self._indices + 1,
            block_tables=self._block_tables,
            logit_rows=self._starts[:-1],
            targets=self._targets,
            sampling=self._sampling,
            want_hidden=want_hidden,
        )

    def commit(self, result: StepResult) -> list[SequenceDelta] | None:
        """Takes the step in if all sequences go on; None, with nothing done, where `Commit` has to look closer."""
        tokens: list[int] = result.token_ids.tolist()
        if self._steps == self._safe_steps or not self._ends.isdisjoint(tokens) or not result.finite.all():
            return None
        deltas: list[SequenceDelta] = []
        for seq, token in zip(self._sequences, tokens, strict=True):
            seq.token_ids.append(token)
            seq.num_computed_tokens += 1
            seq.kv_length += 1
            deltas.append(delta := seq.delta())
            delta.token_ids.append(token)
        self._move_on(result.token_ids)
        return deltas

    def _move_on(self, token_ids: I32) -> None:
        assert self._sampling is not None
        self._token_ids = token_ids
        self._positions = self._positions + 1
        self._indices += 1  # no batch has it
        self._sampling = advanced(self._sampling)
        self._longest += 1
        self._steps += 1
        self.full = self._by_offset[-self._steps % self._cache.block_size]
        for seq in self.full:
            self._cache.commit(seq, seq.kv_length - 1)


def _ends(seq: Sequence) -> tuple[int, ...]:
    """The tokens that may end it."""
    request, params = seq.request, seq.request.params
    return params.stop_token_ids if params.ignore_eos else (*request.eos_token_ids, *params.stop_token_ids)


def _array(values: list[int]) -> I32:
    return np.array(values, np.int32)
