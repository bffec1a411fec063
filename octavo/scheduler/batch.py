"""From scheduled chunks to the flat arrays of a `Batch`. Per-token work is numpy's, per-sequence work Python's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from octavo.kv.tables import BlockTables
from octavo.scheduler.accept import wanted_logprobs
from octavo.types import Batch, Chunk, SamplingArrays, Sequence, SequenceDelta

Row = tuple[Sequence, int]  # a logit row: the sequence, and the index in it of the token the row chooses
BuildSampling = Callable[[list[Row]], SamplingArrays]


@dataclass(slots=True)
class Schedule:
    """What one step shall do. `finished`: sequences that ended without running (deadline)."""

    budget: int  # query tokens that may still be added
    scored_rows: int  # logit rows of scored prompt tokens that may still be added
    chunks: list[Chunk] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    finished: list[SequenceDelta] = field(default_factory=list)

    def add(self, seq: Sequence, num_tokens: int, samples: bool, forks: list[Sequence] | None = None) -> None:
        self.chunks.append(Chunk(seq, num_tokens, len(seq.drafts), 0, 0, samples, forks or []))
        self.budget -= num_tokens


class BatchBuilder:
    def __init__(self, tables: BlockTables, block_size: int, build_sampling: BuildSampling):
        self._tables = tables
        self._block_size = block_size
        self._build_sampling = build_sampling

    def build(self, chunks: list[Chunk], copies: list[tuple[int, int]]) -> Batch:
        """The step's arrays; sets each chunk's row span."""
        tokens: list[int] = []
        logit_rows: list[int] = []
        targets: list[int] = []
        rows: list[Row] = []
        for chunk in chunks:
            chunk.row_start = len(rows)
            _add_rows(chunk, len(tokens), logit_rows, targets, rows)
            chunk.row_stop = len(rows)
            _add_tokens(chunk, tokens)
        counts = np.array([chunk.num_tokens for chunk in chunks], np.int32)
        computed = np.array([chunk.seq.num_computed_tokens for chunk in chunks], np.int32)
        table_rows = np.array([self._tables.rows[chunk.seq] for chunk in chunks], np.intp)
        query_starts = np.zeros(len(chunks) + 1, np.int32)
        np.cumsum(counts, out=query_starts[1:])
        context_lens = computed + counts
        positions = np.arange(len(tokens), dtype=np.int32) + np.repeat(computed - query_starts[:-1], counts)
        width = -(-int(context_lens.max()) // self._block_size)
        tables = np.ascontiguousarray(self._tables.array[table_rows, :width])
        blocks, offsets = np.divmod(positions, self._block_size)
        slots = tables[np.repeat(np.arange(len(chunks)), counts), blocks] * self._block_size + offsets
        return Batch(
            token_ids=np.array(tokens, np.int32),
            positions=positions,
            slot_mapping=slots,
            query_starts=query_starts,
            context_lens=context_lens,
            block_tables=tables,
            logit_rows=np.array(logit_rows, np.int32),
            targets=np.array(targets, np.int32),
            sampling=self._build_sampling(rows),
            num_logprobs=wanted_logprobs([chunk.seq for chunk in chunks]),
            want_hidden=any(chunk.seq.request.pooling is not None for chunk in chunks),
            copies=copies,
            chunks=chunks,
        )


def _add_tokens(chunk: Chunk, tokens: list[int]) -> None:
    seq, start = chunk.seq, chunk.seq.num_computed_tokens
    tokens.extend(seq.token_ids[start : start + chunk.num_tokens - chunk.num_drafts])
    if chunk.num_drafts:
        tokens.extend(seq.drafts)


def _add_rows(chunk: Chunk, first: int, logit_rows: list[int], targets: list[int], rows: list[Row]) -> None:
    """`first`: token row of the chunk's first token. Order: scored prompt tokens, sampled rows, siblings' rows."""
    seq, start = chunk.seq, chunk.seq.num_computed_tokens
    for position in scored_positions(seq, chunk.num_tokens):
        logit_rows.append(first + position - start)
        targets.append(seq.token_ids[position + 1])
        rows.append((seq, position + 1))
    if not chunk.samples:
        return
    last = chunk.num_tokens - 1
    for query in range(last - chunk.num_drafts, last + 1):
        logit_rows.append(first + query)
        targets.append(-1)
        rows.append((seq, start + query + 1))
    for sibling in chunk.forks:
        logit_rows.append(first + last)
        targets.append(-1)
        rows.append((sibling, start + last + 1))


def scored_positions(seq: Sequence, num_tokens: int) -> range:
    """Positions among the next `num_tokens` whose logits shall score the prompt token after them: each exactly once,
    also when a preemption makes the prompt run again."""
    start = seq.num_computed_tokens
    if not (seq.request.wants_prompt_rows and seq.index == 0):
        return range(0)
    return range(max(start, seq.num_scored_tokens), min(start + num_tokens, seq.num_prompt_tokens - 1))
