"""What a KV cache without a store below its pool answers: nothing loads, nothing leaves."""

from __future__ import annotations

from collections.abc import Callable

from octavo.types import Sequence


class NoStore:
    """These parts of `kv.manager.CacheManager`; `kv.offload` has them with a store."""

    def is_loading(self, seq: Sequence) -> bool:
        return False

    def poll(self) -> list[Sequence]:
        return []

    def settle(self, seconds: float) -> bool:
        return False

    def close(self, transfer: Callable[[], None]) -> None:
        pass
