"""The block pool against a model that is too simple to be wrong: dictionaries and a list."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from octavo.kv.blocks import BlockPool

OPERATIONS = int(os.environ.get("OCTAVO_POOL_OPERATIONS", 10_000))
STEPS = 100


class PoolMachine(RuleBasedStateMachine):
    """Tables of blocks by name, and the content of each block. `cached` is in the order of release."""

    @initialize(num_blocks=st.integers(1, 12))
    def build(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.cached: list[int] = []

    def refs(self, block: int) -> int:
        return sum(block in table for table in self.tables)

    def available(self) -> int:
        return self.pool.num_blocks - len({block for table in self.tables for block in table})

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.available()))
        evictions = max(0, count - (self.available() - len(self.cached)))
        expected, self.cached = self.cached[:evictions], self.cached[evictions:]
        blocks = self.pool.allocate(count)
        for block in expected:  # the least recently released ones, and only when no free block is left
            assert block in blocks
            del self.content[block]
        assert all(self.refs(block) == 0 for block in blocks) and len(set(blocks)) == count
        assert not set(blocks) & self.content.keys()
        self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.tables.append(self.pool.fork(table))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        """Writes to a table's last block: copy on write if it is shared."""
        table = data.draw(st.sampled_from(self.tables))
        if table and self.refs(table[-1]) > 1 and self.available() > len(self.cached):
            copy = self.pool.copy_on_write(table[-1])
            assert self.refs(copy) == 0 and copy not in self.content
            table[-1] = copy

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)
        self.cached += [block for block in reversed(table) if self.refs(block) == 0 and block in self.content]

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data(), key=st.binary(min_size=1, max_size=1))
    def register(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(sorted({block for table in self.tables for block in table})))
        self.pool.register(block, key)
        if block not in self.content and key not in self.content.values():
            self.content[block] = key

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.content)))
        assert self.pool.lookup(self.content[block]) == block
        self.pool.share(block)
        self.cached = [other for other in self.cached if other != block]
        self.tables.append([block])

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        block = data.draw(st.integers(0, self.pool.num_blocks - 1))
        self.pool.forget(block)
        self.content.pop(block, None)
        self.cached = [other for other in self.cached if other != block]

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity(self.tables)
        assert self.pool.num_available == self.available()
        assert self.pool.num_cached == len(self.cached)
        assert self.pool.num_used + self.pool.num_available == self.pool.num_blocks


def test_pool_against_the_model() -> None:
    examples = max(1, OPERATIONS // STEPS)
    run_state_machine_as_test(
        PoolMachine, settings=settings(max_examples=examples, stateful_step_count=STEPS, deadline=None)
    )


def test_the_tail_of_a_chain_is_evicted_before_its_head() -> None:
    pool = BlockPool(3)
    table = pool.allocate(3)
    for index, block in enumerate(table):
        pool.register(block, bytes([index]))
    pool.release(table)
    assert pool.allocate(1) == table[2:]
    assert [pool.lookup(bytes([index])) for index in range(3)] == [table[0], table[1], None]
    assert pool.num_evictions == 1


def test_whoever_asked_is_told_what_is_evicted_before_it_is_gone() -> None:
    lower: dict[bytes, list[int]] = {}  # a tier below the pool, as small as can be
    pool = BlockPool(3, on_evict=lambda key, block: lower.setdefault(key, []).append(block))
    table = pool.allocate(3)
    for block, key in zip(table[:2], (b"head", b"tail"), strict=True):
        pool.register(block, key)
    pool.release(table)
    assert pool.allocate(1) == table[2:] and lower == {}, "a free block holds nothing worth telling"
    assert pool.allocate(1) == table[1:2] and lower == {b"tail": table[1:2]}
    pool.share(table[0])
    pool.release(table[:1])
    assert lower.keys() == {b"tail"}, "used again, then cached again"
    pool.allocate(1)
    assert lower == {b"tail": table[1:2], b"head": table[:1]} and pool.num_evictions == 2
    pool.forget(table[0])
    assert len(lower) == 2


def test_integrity_check_sees_damage() -> None:
    pool = BlockPool(4)
    table = pool.allocate(2)
    pool.check_integrity([table])
    with pytest.raises(AssertionError, match="references"):
        pool.check_integrity([])
    pool.refs[table[0]] = 2
    with pytest.raises(AssertionError, match="references"):
        pool.check_integrity([table])
