"""What `BlockPool.on_evict` is told: a key always comes with its content."""

from __future__ import annotations

import random

from octavo.backends.null import NullBackend
from octavo.kv.paged import PagedCache
from octavo.kv.prefix import extend_chain, root_key
from octavo.types import I64
from tests.unit.control import RandomTrees, drain, engine
from tests.unit.test_engine import ALONE, REQUESTS

BLOCK = 4


class RamTier:
    """Keeps evicted blocks. Their content must be read when the pool calls, not later."""

    def __init__(self, backend: NullBackend):
        self._slots = backend._slots
        self.kept: dict[bytes, I64] = {}

    def __call__(self, key: bytes, block: int) -> None:
        self.kept[key] = self._slots[block].copy()


def test_what_is_evicted_is_still_what_its_key_says() -> None:
    """Also with draft trees, whose accepted paths are moved, and with preemption."""
    small = engine(blocks=26, block_size=BLOCK, proposer=RandomTrees(ALONE, random.Random(2)))
    assert isinstance(small.cache, PagedCache) and isinstance(small._backend, NullBackend)
    small.cache.pool.on_evict = tier = RamTier(small._backend)  # the line
    assert drain(small, REQUESTS) == ALONE
    assert len(tier.kept) > 50 and small.stats.preemptions > 0 and small.stats.accepted_tokens > 0
    known = {}
    for item in REQUESTS:
        for index in range(item.params.n):
            tokens, keys = [*item.prompt_token_ids, *ALONE[item.request_id, index].token_ids], []
            extend_chain(keys, tokens, len(tokens) // BLOCK, BLOCK, root_key(""))
            known |= {key: [tokens[i * BLOCK : (i + 1) * BLOCK], i * BLOCK] for i, key in enumerate(keys)}
    for key, content in tier.kept.items():
        tokens, first = known[key]
        assert content[:, 0].tolist() == tokens
        assert content[:, 1].tolist() == list(range(first, first + BLOCK))
