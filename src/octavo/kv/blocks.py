"""The block pool: ids and reference counts of KV blocks. It knows no tensors and no sequences.

Every block is in exactly one of three states:

    free    in no table, its content is worthless           _free (a stack)
    cached  in no table, its content is known by its key    _cached (least recently released first)
    used    in refs[block] tables                           neither

A used block may also have a key: any sequence with the same content then shares it. All operations are O(1) a block.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence


class BlockPool:
    """on_evict: called with the key and the block before a cached block is reused. Its content stays intact until the
    next transfers are made or the next batch runs."""

    def __init__(self, num_blocks: int, on_evict: Callable[[bytes, int], None] | None = None):
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self.refs = [0] * num_blocks
        self.num_evictions = 0
        self.on_evict = on_evict
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can return: free ones, then cached ones (which lose their content)."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each and no key. The caller has checked `num_available`."""
        assert count <= self.num_available
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self.refs[block] = 1
        return blocks

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        key = self._key_of.pop(block)
        del self._block_of[key]
        self.num_evictions += 1
        if self.on_evict is not None:
            self.on_evict(key, block)
        return block

    def share(self, block: int) -> None:
        """One more table holds `block`, which is used or cached."""
        if self.refs[block] == 0:
            del self._cached[block]
        self.refs[block] += 1

    def fork(self, table: list[int]) -> list[int]:
        """A second table over the same blocks. The first table to write calls `copy_on_write`."""
        for block in table:
            self.share(block)
        return list(table)

    def copy_on_write(self, block: int) -> int:
        """Exchanges one reference to a shared block for a new block. The caller copies the content before it writes."""
        assert self.refs[block] > 1
        (copy,) = self.allocate(1)
        self.refs[block] -= 1
        return copy

    def move(self, block: int, target: int) -> bool:
        """Gives a used block another id, with its references and its key. The caller copies the content.

        False, with nothing changed, if `target` is not free."""
        if not 0 <= target < self.num_blocks or self.refs[target] or target in self._key_of:
            return False
        self._free.remove(target)
        self.refs[target], self.refs[block] = self.refs[block], 0
        if (key := self._key_of.pop(block, None)) is not None:
            self._key_of[target] = key
            self._block_of[key] = target
        self._free.append(block)
        return True

    def release(self, table: list[int]) -> None:
        """Drops one table's references. Its last blocks are evicted first: a chain is useless without its head."""
        for block in reversed(table):
            assert self.refs[block] > 0
            self.refs[block] -= 1
            if self.refs[block] == 0:
                if block in self._key_of:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def lookup(self, key: bytes) -> int | None:
        return self._block_of.get(key)

    def register(self, block: int, key: bytes) -> None:
        """Sets the key of a full, computed block. If another block has the key already, that block keeps it."""
        assert self.refs[block] > 0
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self, block: int) -> None:
        """Removes the key of a block whose content is not to be trusted. Tables that hold the block keep it."""
        if (key := self._key_of.pop(block, None)) is not None:
            del self._block_of[key]
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def named(self) -> list[tuple[bytes, int]]:
        """All blocks with a key, the next to be evicted first."""
        used = [block for block in self._key_of if self.refs[block]]
        return [(self._key_of[block], block) for block in (*self._cached, *used)]

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Asserts every invariant, given all tables that hold blocks. O(blocks): for tests."""
        held = Counter(block for table in tables for block in table)
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is twice in the free list"
        assert not free & cached, "a block is both free and cached"
        for block, count in enumerate(self.refs):
            assert count == held[block], f"block {block}: {count} references, in {held[block]} tables"
            assert (count == 0) == (block in free or block in cached), f"block {block}: lost, or used and available"
        assert set(held) <= set(range(self.num_blocks)), "a table names a block that does not exist"
        assert {key: block for block, key in self._key_of.items()} == self._block_of, "the hash maps disagree"
        assert cached <= self._key_of.keys(), "a cached block has no key"
        assert not free & self._key_of.keys(), "a free block has a key"
