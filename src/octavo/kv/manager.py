"""The scheduler's interface to a KV cache: `PagedCache`, or the baseline `ContiguousCache`."""

from __future__ import annotations

from typing import Protocol

from octavo.config import CacheConfig, EngineConfig
from octavo.errors import ConfigError
from octavo.kv.contiguous import ContiguousCache
from octavo.kv.paged import PagedCache
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Sequence


class CacheManager(Protocol):
    """Gives slots to sequences. A sequence holds blocks from `admit` (or `fork`) to `free` (or `discard`)."""

    block_size: int
    tables: BlockTables
    transfers: PendingTransfers

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence that fits alone."""

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold, 0 to 1. Cached blocks that no sequence holds do not count."""

    def admit(self, seq: Sequence, keep_free: int) -> bool:
        """Takes blocks for all known tokens of `seq`, shared ones first. Sets `num_computed_tokens` and `kv_length` to
        the tokens that the shared blocks hold.

        False, with nothing changed, when fewer than `keep_free` blocks would be left.
        """

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Gives the sequence private slots for the `num_tokens` entries after `kv_length`. A shared block among them is
        replaced by a private copy (`transfers`).

        False, with nothing changed, when there are not enough blocks.
        """

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Lets `child` share all that `parent` has computed. False if this cache cannot share."""

    def commit(self, seq: Sequence, start: int) -> None:
        """Entries `start` .. `kv_length` of its KV are final: their full blocks may be shared."""

    def free(self, seq: Sequence) -> None:
        """Releases all blocks of `seq`, if any. Shared content stays findable until its block is reused."""

    def discard(self, seq: Sequence) -> None:
        """`free` for a sequence whose values are not to be trusted: its blocks are not shared."""

    def check_integrity(self) -> None:
        """Asserts that no block is lost or held twice."""


def create(config: EngineConfig, cache: CacheConfig) -> CacheManager:
    """The cache that `config.kv_cache` names. `config.max_model_len` must be resolved."""
    assert config.max_model_len is not None
    max_blocks = -(-config.max_model_len // cache.block_size)
    if config.kv_cache == "paged":
        return PagedCache(cache, config.max_num_seqs, max_blocks, config.enable_prefix_caching)
    if config.kv_cache == "contiguous":
        return ContiguousCache(cache, config.max_num_seqs, max_blocks)
    raise ConfigError(f"kv_cache must be 'paged' or 'contiguous', not {config.kv_cache!r}")
