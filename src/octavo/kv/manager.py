"""The scheduler's interface to a KV cache: `PagedCache`, or the baseline `ContiguousCache`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from octavo.config import CacheConfig, EngineConfig
from octavo.errors import ConfigError
from octavo.kv.contiguous import ContiguousCache
from octavo.kv.offload import OffloadedCache
from octavo.kv.paged import PagedCache
from octavo.kv.tables import BlockTables
from octavo.kv.transfers import PendingTransfers
from octavo.types import Sequence


class CacheManager(Protocol):
    """Gives slots to sequences. A sequence holds blocks from `admit` (or `fork`) to `free` (or `discard`)."""

    block_size: int
    evictions: tuple[str, ...]  # that the device can do
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

    def room(self, seq: Sequence) -> int:
        """Entries that could be added after `kv_length` without taking blocks from other sequences."""

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

    def is_loading(self, seq: Sequence) -> bool:
        """Whether a sequence that was admitted waits for blocks that are being read from a tier below the pool."""

    def poll(self) -> list[Sequence]:
        """The sequences that have waited for blocks and can run now. Their `num_computed_tokens` and `kv_length` count
        what was read."""

    def settle(self, seconds: float) -> bool:
        """Waits, at most that long, for blocks of loads that were given up. Whether some were not usable until now."""

    def close(self, transfer: Callable[[], None]) -> None:
        """Ends what reads and writes below the pool, after it has stored what the pool holds.

        transfer: makes the pending transfers."""

    def gather(self) -> bool:
        """Moves some blocks side by side (`kv.compaction`). Returns whether any moved."""

    def check_integrity(self) -> None:
        """Asserts that no block is lost or held twice."""


def create(config: EngineConfig, cache: CacheConfig, offloads: bool = False) -> CacheManager:
    """The cache that `config.kv_cache` names. `config.max_model_len` must be resolved.

    offloads: there are tiers below the pool, which `config.check` allows for the paged cache with prefix caching only.
    """
    assert config.max_model_len is not None
    max_blocks = -(-config.max_model_len // cache.block_size)
    if offloads:
        return OffloadedCache(cache, config.max_num_seqs, max_blocks, config.preemption_mode != "recompute")
    if config.kv_cache == "paged":
        return PagedCache(cache, config.max_num_seqs, max_blocks, config.enable_prefix_caching)
    if config.kv_cache == "contiguous":
        return ContiguousCache(cache, config.max_num_seqs, max_blocks)
    raise ConfigError(f"kv_cache must be 'paged' or 'contiguous', not {config.kv_cache!r}")
