"""Self-speculation: the model drafts for itself with some of its layers (Draft & Verify 2309.08168; SWIFT 2410.06916).

Nothing is loaded twice: the short pass reads the same weights, and the keys and values that the whole model computed
for the layers it keeps. It writes the KV of draft tokens to the slots that verification overwrites, so there is nothing
to roll back. `early_exit` is the special case of the first layers.
"""

from __future__ import annotations

from octavo.backends.base import Backend
from octavo.kv.manager import CacheManager
from octavo.spec.draft_run import DraftRunner, DraftSequence, spread
from octavo.spec.proposer import Guess
from octavo.types import Sequence


class SelfDrafter:
    """backend: the main one's `share` with fewer layers. cache: the engine's own."""

    runs_model = True

    def __init__(self, name: str, backend: Backend, cache: CacheManager, vocab_size: int, min_probability: float = 0.0):
        self.name = name
        self._cache = cache
        self._runner = DraftRunner(backend, cache.tables, vocab_size, min_probability)

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [Guess(draft.drafted) for draft in self._chain(sequences, limits, 0)]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        return [spread(draft) for draft in self._chain(sequences, limits, width)]

    def _chain(self, sequences: list[Sequence], limits: list[int], width: int) -> list[DraftSequence]:
        drafts = [self._begin(seq, limit) for seq, limit in zip(sequences, limits, strict=True)]
        self._runner.chain(drafts, width)
        return drafts

    def _begin(self, seq: Sequence, limit: int) -> DraftSequence:
        """Starts a draft with the pending token. Drafts nothing if its slots are not available."""
        if limit > 0 and (_may_share_its_last_block(seq) or not self._cache.grow(seq, 1 + limit)):
            limit = 0
        return DraftSequence(seq, seq, seq.token_ids[seq.num_computed_tokens :], limit)


def _may_share_its_last_block(seq: Sequence) -> bool:
    """True before a fork's first step. That step copies the shared block, but drafting comes before it."""
    return seq.request.params.n > 1 and seq.num_output_tokens <= 1
