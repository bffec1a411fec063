"""A second, smaller model drafts (Leviathan et al. 2211.17192). It has a separate KV pool, paged and prefix-cached like
the main one.

Each sequence has a shadow: a `Sequence` over the same token list with the draft model's blocks and a separate count of
computed tokens. After a step, the shadow keeps the KV of accepted drafts and forgets the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.backends.base import Backend
from octavo.kv.manager import CacheManager
from octavo.spec.draft_run import DraftRunner, DraftSequence, spread
from octavo.spec.proposer import NOTHING, Guess
from octavo.spec.states import States
from octavo.types import Sequence, Status


@dataclass(slots=True)
class Shadow:
    seq: Sequence
    known: int = 0  # tokens of the sequence when it drafted last
    ran: list[int] = field(default_factory=list)  # drafts after these whose KV is computed

    def rewind(self) -> None:
        """Forgets the drafts that were rejected."""
        if not self.ran:
            return
        settled = self.seq.token_ids[self.known : self.known + len(self.ran)]
        agreed = next((i for i, pair in enumerate(zip(settled, self.ran, strict=False)) if pair[0] != pair[1]), None)
        self.keep(self.known + (len(settled) if agreed is None else agreed))
        self.ran = []

    def keep(self, count: int) -> None:
        """Sets the KV length to `count` tokens."""
        self.seq.num_computed_tokens = self.seq.kv_length = count


class ModelDrafter:
    """cache: the draft model's. max_tokens: what its backend takes in a batch; a longer prompt takes several steps."""

    name = "draft_model"
    runs_model = True

    def __init__(
        self,
        backend: Backend,
        cache: CacheManager,
        vocab_size: int,
        max_tokens: int,
        min_probability: float = 0.0,
    ):
        self._cache = cache
        self._runner = DraftRunner(backend, cache.tables, vocab_size, min_probability)
        self._max_tokens = max_tokens
        self._shadows: States[Shadow] = States(_shadow, lambda _, shadow: cache.free(shadow.seq))

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [NOTHING if draft is None else Guess(draft.drafted) for draft in self._run(sequences, limits, 0)]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        return [[] if draft is None else spread(draft) for draft in self._run(sequences, limits, width)]

    def _run(self, sequences: list[Sequence], limits: list[int], width: int) -> list[DraftSequence | None]:
        """Runs the tokens the draft model has not seen, up to one batch; sequences that are up to date then draft."""
        self._release()
        drafts = [self._begin(seq, limit) for seq, limit in zip(sequences, limits, strict=True)]
        room, first, ready = self._max_tokens, [], []
        for draft in drafts:
            if draft is None or room == 0:
                continue
            if len(draft.tokens) <= room:
                ready.append(draft)
            draft.tokens = draft.tokens[:room]
            room -= len(draft.tokens)
            first.append(draft)
        if first:
            self._runner.step(first, ready, width)
            self._runner.chain(ready, width)
        for draft in first:
            self._settle(draft)
        return drafts

    def _release(self) -> None:
        """Frees the blocks of shadows whose sequences do not run: they cannot be drafted for."""
        for seq in [seq for seq in self._shadows if seq.status is not Status.RUNNING]:
            self._shadows.remove(seq)

    def _begin(self, seq: Sequence, limit: int) -> DraftSequence | None:
        """Starts a draft; None if there is nothing to draft or no blocks are free."""
        if limit < 1 or len(seq.token_ids) + limit > self._cache.tables.most_slots:  # a stream outgrows the draft model
            return None
        shadow = self._shadows[seq]
        shadow.rewind()
        own = shadow.seq
        if own not in self._cache.tables and not self._cache.admit(own, keep_free=0):
            return None
        pending = own.token_ids[own.num_computed_tokens :]
        if not self._cache.grow(own, len(pending) + limit - 1):
            return None
        return DraftSequence(seq, own, pending, limit)

    def _settle(self, draft: DraftSequence) -> None:
        """Records the KV that the shadow has computed: known tokens are final, drafts only until verification."""
        shadow, known = self._shadows[draft.seq], len(draft.seq.token_ids)
        before, shadow.known = shadow.seq.kv_length, known
        computed = before + draft.ran
        shadow.keep(min(computed, known))
        shadow.ran = draft.drafted[: max(0, computed - known)]
        self._cache.commit(shadow.seq, before)


def _shadow(seq: Sequence) -> Shadow:
    return Shadow(Sequence(seq.request, seq.index, seq.token_ids, seq.num_prompt_tokens))
