"""Builds the flat arrays of a `Batch` from scheduled sequences. Per-token work is in numpy, per-sequence work in
Python."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from octavo.kv import eviction
from octavo.kv.tables import BlockTables
from octavo.scheduler import tree
from octavo.scheduler.decode import BuildSampling, DecodeBatch, Row
from octavo.types import I32, Batch, ScheduledSequence, Sequence, SequenceDelta, Status


@dataclass(slots=True)
class Schedule:
    """The work of one step, as the control plane sees it. finished: sequences that ended without running (deadline)."""

    budget: int  # query tokens that may still be added
    scored_rows: int  # logit rows of scored prompt tokens that may still be added
    entries: list[ScheduledSequence] = field(default_factory=list)  # in the order of the batch
    finished: list[SequenceDelta] = field(default_factory=list)
    decodes: DecodeBatch | None = None  # set when the step takes the short path
    began: float = 0.0  # when it was scheduled

    @property
    def num_tokens(self) -> int:
        """The query tokens of the step."""
        return len(self.entries) if self.decodes else sum([entry.num_tokens for entry in self.entries])

    def add(self, seq: Sequence, num_tokens: int, samples: bool, forks: list[Sequence] | None = None) -> None:
        parents = seq.draft_parents[: len(seq.drafts)] if seq.drafts and seq.draft_parents is not None else None
        self.entries.append(ScheduledSequence(seq, num_tokens, len(seq.drafts), 0, 0, samples, forks or [], parents))
        self.budget -= num_tokens

    def remove_preempted(self) -> None:
        """Removes sequences that were preempted after they were added."""
        kept = [entry for entry in self.entries if entry.seq.status is Status.RUNNING]
        if len(kept) < len(self.entries):
            self.budget += self.num_tokens - sum([entry.num_tokens for entry in kept])
            self.entries = kept

    def alone(self, entry: ScheduledSequence) -> Schedule:
        """A step that runs only this sequence."""
        return Schedule(self.budget, self.scored_rows, [entry], began=self.began)


class BatchBuilder:
    def __init__(self, tables: BlockTables, build_sampling: BuildSampling):
        self._tables = tables
        self._build_sampling = build_sampling

    def build(self, plan: Schedule, want_hidden: bool = False) -> Batch:
        """Builds the step's arrays and sets each entry's row span. want_hidden: return hidden states even if no request
        needs them."""
        if plan.decodes is not None:
            return plan.decodes.build(self._build_sampling, want_hidden)
        entries = plan.entries
        tokens: list[int] = []
        logit_rows: list[int] = []
        rows: list[Row] = []
        scored: dict[int, int] = {}
        for entry in entries:
            seq, start = entry.seq, entry.seq.num_computed_tokens
            entry.row_start = len(rows)
            if entry.num_tokens == 1 and entry.samples and not entry.forks:  # a decode: `_add_rows` by hand
                logit_rows.append(len(tokens))
                rows.append((seq, start + 1))
                tokens.append(seq.token_ids[start])
            else:
                _add_rows(entry, len(tokens), logit_rows, rows, scored)
                tokens += seq.token_ids[start : start + entry.num_tokens - entry.num_drafts]
                tokens += seq.drafts
            entry.row_stop = len(rows)
        placed = self._tables.place([entry.seq for entry in entries], [entry.num_tokens for entry in entries])
        grafted = any([entry.parents for entry in entries])
        parents = tree.plant(entries, placed.query_starts, placed.positions) if grafted else None
        sight = eviction.sight([entry.seq for entry in entries], placed.positions, placed.query_starts)
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
            num_logprobs=wanted_logprobs(entries),
            want_hidden=want_hidden or any([entry.seq.request.pooling is not None for entry in entries]),
            parents=parents,
            sinks=sight.sinks,
            windows=sight.windows,
            sink_positions=sight.sink_positions,
        )


def _add_rows(
    entry: ScheduledSequence, first: int, logit_rows: list[int], rows: list[Row], scored: dict[int, int]
) -> None:
    """`first`: token row of the entry's first token. Order: scored prompt tokens, sampled rows, siblings' rows."""
    seq, start = entry.seq, entry.seq.num_computed_tokens
    for position in scored_positions(seq, entry.num_tokens):
        scored[len(rows)] = seq.token_ids[position + 1]
        logit_rows.append(first + position - start)
        rows.append((seq, position + 1))
    if not entry.samples:
        return
    last = entry.num_tokens - 1
    logit_rows += range(first + last - entry.num_drafts, first + last + 1)
    if entry.parents is None:
        rows += [(seq, start + query + 1) for query in range(last - entry.num_drafts, last + 1)]
    else:
        rows += tree.rows(seq, start, entry.parents)
    for sibling in entry.forks:
        logit_rows.append(first + last)
        rows.append((sibling, start + last + 1))


def _targets(count: int, scored: dict[int, int]) -> I32:
    """Targets of `count` logit rows: the token of a scored row, -1 for the others."""
    targets = np.full(count, -1, np.int32)
    if scored:
        targets[list(scored)] = list(scored.values())
    return targets


def scored_positions(seq: Sequence, num_tokens: int) -> range:
    """Positions among the next `num_tokens` whose logits score the following prompt token.

    Each position is scored once, even if a preemption makes the prompt run again."""
    start = seq.num_computed_tokens
    if not (seq.request.wants_prompt_rows and seq.index == 0):
        return range(0)
    return range(max(start, seq.num_scored_tokens), min(start + num_tokens, seq.num_prompt_tokens - 1))


def wanted_logprobs(entries: list[ScheduledSequence]) -> int:
    """`Batch.num_logprobs` for these entries: the largest requested number, -1 if no entry requests logprobs."""
    most = -1
    for entry in entries:
        seq, params = entry.seq, entry.seq.request.params
        if params.logprobs is not None:
            most = max(most, params.logprobs)
        if params.prompt_logprobs is not None and seq.num_scored_tokens < seq.num_prompt_tokens - 1:
            most = max(most, params.prompt_logprobs)
    return most
