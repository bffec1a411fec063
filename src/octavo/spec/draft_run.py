"""Drafting with a model, token after token, for many sequences at once: what `layer_skip` and `draft_model` share.

A draft token is drawn as the main model would draw it: with the request's own parameters and the random number of its
position. So where the draft model has the main model's distribution, it drafts the token that the main model will draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from octavo.backends.base import Backend
from octavo.kv.tables import BlockTables
from octavo.sampling import params
from octavo.types import Batch, Sequence, StepResult


@dataclass(slots=True)
class DraftSequence:
    """A sequence being drafted for. seq: its tokens are drafted. holder: its blocks hold the KV; `seq` or its
    shadow."""

    seq: Sequence
    holder: Sequence
    tokens: list[int]  # query tokens of the next batch
    limit: int  # tokens to draft
    ran: int = 0  # tokens run beyond those that the holder counts
    drafted: list[int] = field(default_factory=list)
    others: list[list[int]] = field(default_factory=list)  # for each draft, the most likely alternatives


class DraftRunner:
    """width: alternatives kept for each draft, for trees.

    A greedy draft ends before a token that the drafting model gives less than `min_probability`: it would rarely be
    accepted. For a sampled token the probability does not matter: where both models agree, even an unlikely token is
    accepted.
    """

    def __init__(self, backend: Backend, tables: BlockTables, vocab_size: int, min_probability: float = 0.0):
        self._backend = backend
        self._tables = tables
        self._vocab_size = vocab_size
        self._min_logprob = math.log(min_probability) if min_probability > 0 else -math.inf

    def chain(self, drafts: list[DraftSequence], width: int = 0) -> None:
        """Drafts each sequence up to its limit. The query tokens of all must fit into one batch."""
        while drafts := [draft for draft in drafts if len(draft.drafted) < draft.limit]:
            self.step(drafts, drafts, width)

    def step(self, drafts: list[DraftSequence], drafting: list[DraftSequence], width: int = 0) -> None:
        """Runs the query tokens of all. Each sequence in `drafting` drafts a token, which becomes its next query
        token."""
        result = self._backend.run(self._batch(drafts, width))
        chosen = result.token_ids.tolist()
        wanted = set(map(id, drafting))
        for row, draft in enumerate(drafts):
            draft.ran += len(draft.tokens)
            if id(draft) in wanted and self._unsure(draft, result, row):
                draft.limit = len(draft.drafted)
            elif id(draft) in wanted:
                draft.drafted.append(chosen[row])
                draft.seq.drafts = draft.drafted  # the history of the next draft
                draft.tokens = [chosen[row]]
                draft.others.append(_others(result, row, width))

    def _unsure(self, draft: DraftSequence, result: StepResult, row: int) -> bool:
        if result.logprobs is None or draft.seq.request.params.temperature > 0:
            return False
        return bool(result.logprobs[row] < self._min_logprob)

    def _batch(self, drafts: list[DraftSequence], width: int) -> Batch:
        counts = [len(draft.tokens) for draft in drafts]
        placed = self._tables.place([draft.holder for draft in drafts], counts, [draft.ran for draft in drafts])
        logit_rows = placed.query_starts[1:] - np.int32(1)
        chosen = (placed.positions[logit_rows] + 1).tolist()  # positions of the tokens that the rows choose
        return Batch(
            token_ids=np.array([token for draft in drafts for token in draft.tokens], np.int32),
            positions=placed.positions,
            slot_mapping=placed.slot_mapping,
            query_starts=placed.query_starts,
            context_lens=placed.context_lens,
            block_tables=placed.block_tables,
            logit_rows=logit_rows,
            targets=np.full(len(drafts), -1, np.int32),
            sampling=params.build(list(zip([draft.seq for draft in drafts], chosen, strict=True)), self._vocab_size),
            num_logprobs=width or (0 if self._min_logprob > -math.inf else -1),
        )


def _others(result: StepResult, row: int, width: int) -> list[int]:
    if not width or result.top_ids is None:
        return []
    chosen = int(result.token_ids[row])
    return [token for token in result.top_ids[row].tolist() if token != chosen][: width - 1]


def spread(draft: DraftSequence) -> list[list[int]]:
    """The draft's chain, then for each of its tokens the chains that end with an alternative to that token."""
    chains = [draft.drafted]
    for place, others in enumerate(draft.others):
        chains += [[*draft.drafted[:place], token] for token in others]
    return chains
