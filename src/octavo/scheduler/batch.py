"""From scheduled chunks to the flat arrays of a `Batch`. Per-token work is numpy's, per-sequence work Python's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from octavo.kv.tables import BlockTables
from octavo.scheduler import tree
from octavo.scheduler.decode import BuildSampling, DecodeBatch, Row
from octavo.types import I32, Batch, Chunk, Sequence, SequenceDelta


@dataclass(slots=True)
class Schedule:
    """What one step shall do: the control plane's side of a batch. `finished`: sequences that ended without running
    (deadline)."""

    budget: int  # query tokens that may still be added
    scored_rows: int  # logit rows of scored prompt tokens that may still be added
    chunks: list[Chunk] = field(default_factory=list)
    finished: list[SequenceDelta] = field(default_factory=list)
    decodes: DecodeBatch | None = None  # the short path to the same batch and deltas, where the chunks allow it

    def add(self, seq: Sequence, num_tokens: int, samples: bool, forks: list[Sequence] | None = None) -> None:
        parents = seq.draft_parents[: len(seq.drafts)] if seq.drafts and seq.draft_parents is not None else None
        self.chunks.append(Chunk(seq, num_tokens, len(seq.drafts), 0, 0, samples, forks or [], parents))
        self.budget -= num_tokens

    def alone(self, chunk: Chunk) -> Schedule:
        """A step of this chunk alone."""
        return Schedule(self.budget, self.scored_rows, [chunk])


class BatchBuilder:
    def __init__(self, tables: BlockTables, build_sampling: BuildSampling):
        self._tables = tables
        self._build_sampling = build_sampling

    def build(self, plan: Schedule, want_hidden: bool = False) -> Batch:
        """The step's arrays; sets each chunk's row span. want_hidden: also where no chunk's request needs them."""
        if plan.decodes is not None:
            return plan.decodes.build(self._build_sampling, want_hidden)
        chunks = plan.chunks
        tokens: list[int] = []
        logit_rows: list[int] = []
        rows: list[Row] = []
        scored: dict[int, int] = {}
        for chunk in chunks:
            seq, start = chunk.seq, chunk.seq.num_computed_tokens
            chunk.row_start = len(rows)
            if chunk.num_tokens == 1 and chunk.samples and not chunk.forks:  # a decode: `_add_rows` by hand
                logit_rows.append(len(tokens))
                rows.append((seq, start + 1))
                tokens.append(seq.token_ids[start])
            else:
                _add_rows(chunk, len(tokens), logit_rows, rows, scored)
                tokens += seq.token_ids[start : start + chunk.num_tokens - chunk.num_drafts]
                tokens += seq.drafts
            chunk.row_stop = len(rows)
        placed = self._tables.place([chunk.seq for chunk in chunks], [chunk.num_tokens for chunk in chunks])
        grafted = any([chunk.parents for chunk in chunks])
        parents = tree.plant(chunks, placed.query_starts, placed.positions) if grafted else None
        return Batch(
            token_ids=np.array(tokens, np.int32),
            positions=placed.positions,
            slot_mapping=placed.slot_mapping,
            query_starts=placed.query_starts,
            context_lens=placed.context_lens,
            block_tables=placed.block_tables,
            logit_rows=np.array(logit_rows, np.int32),
            targets=_targets(len(rows), scored),
            sampling=self._build_sampling(rows),
            num_logprobs=wanted_logprobs(chunks),
            want_hidden=want_hidden or any([chunk.seq.request.pooling is not None for chunk in chunks]),
            parents=parents,
        )


def _add_rows(chunk: Chunk, first: int, logit_rows: list[int], rows: list[Row], scored: dict[int, int]) -> None:
    """`first`: token row of the chunk's first token. Order: scored prompt tokens, sampled rows, siblings' rows."""
    seq, start = chunk.seq, chunk.seq.num_computed_tokens
    for position in scored_positions(seq, chunk.num_tokens):
        scored[len(rows)] = seq.token_ids[position + 1]
        logit_rows.append(first + position - start)
        rows.append((seq, position + 1))
    if not chunk.samples:
        return
    last = chunk.num_tokens - 1
    logit_rows += range(first + last - chunk.num_drafts, first + last + 1)
    if chunk.parents is None:
        rows += [(seq, start + query + 1) for query in range(last - chunk.num_drafts, last + 1)]
    else:
        rows += tree.rows(seq, start, chunk.parents)
    for sibling in chunk.forks:
        logit_rows.append(first + last)
        rows.append((sibling, start + last + 1))


def _targets(count: int, scored: dict[int, int]) -> I32:
    """-1 for each of `count` logit rows, but for the scored ones: their token."""
    targets = np.full(count, -1, np.int32)
    if scored:
        targets[list(scored)] = list(scored.values())
    return targets


def scored_positions(seq: Sequence, num_tokens: int) -> range:
    """Positions among the next `num_tokens` whose logits shall score the prompt token after them: each exactly once,
    also when a preemption makes the prompt run again."""
    start = seq.num_computed_tokens
    if not (seq.request.wants_prompt_rows and seq.index == 0):
        return range(0)
    return range(max(start, seq.num_scored_tokens), min(start + num_tokens, seq.num_prompt_tokens - 1))


def wanted_logprobs(chunks: list[Chunk]) -> int:
    """`Batch.num_logprobs` for these chunks: the most that any asks for, -1 when none does."""
    most = -1
    for chunk in chunks:
        seq, params = chunk.seq, chunk.seq.request.params
        if params.logprobs is not None:
            most = max(most, params.logprobs)
        if params.prompt_logprobs is not None and seq.num_scored_tokens < seq.num_prompt_tokens - 1:
            most = max(most, params.prompt_logprobs)
    return most
