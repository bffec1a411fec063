from __future__ import annotations

from octavo.kv.blocks import BlockPool
from octavo.kv.prefix import extend_chain, is_private, match, root_key


def chain(tokens: list[int], count: int, salt: str = "", size: int = 4) -> list[bytes]:
    keys: list[bytes] = []
    extend_chain(keys, tokens, count, size, root_key(salt))
    return keys


def test_a_key_stands_for_everything_before_it() -> None:
    one, other = chain(list(range(12)), 3), chain([9, *range(1, 12)], 3)
    assert not set(one) & set(other)  # blocks 1 and 2 have equal tokens, but not equal prefixes
    assert chain([*range(8), 0, 0, 0, 0], 3)[:2] == one[:2]


def test_keys_are_extended_not_recomputed() -> None:
    keys = chain(list(range(12)), 1)
    marked = [b"x" * 32]
    extend_chain(marked, list(range(12)), 3, 4, root_key(""))
    assert marked[0] == b"x" * 32 and len(marked) == 3 and marked[1] != chain(list(range(12)), 3)[1]
    extend_chain(keys, list(range(12)), 3, 4, root_key(""))
    assert keys == chain(list(range(12)), 3)


def test_salt_and_adapter_separate() -> None:
    roots = [root_key(*pair) for pair in (("", ""), ("a", ""), ("", "a"), ("ab", "c"), ("a", "bc"))]
    assert len(set(roots)) == len(roots)
    assert not set(chain(list(range(8)), 2, "one")) & set(chain(list(range(8)), 2, "two"))


def test_a_key_says_whether_the_client_gave_a_salt() -> None:
    for salt, private in (("", False), ("mine", True), ("key:1\0mine", True), ("key:1\0", False)):
        assert is_private(root_key(salt)) == private
        assert {is_private(key) for key in chain(list(range(40)), 10, salt)} == {private}


def test_match_stops_at_the_first_unknown_block() -> None:
    pool, keys = BlockPool(4), chain(list(range(12)), 3)
    blocks = pool.allocate(3)
    pool.register(blocks[0], keys[0])
    pool.register(blocks[2], keys[2])
    assert match(pool, keys) == blocks[:1]
    pool.register(blocks[1], keys[1])
    assert match(pool, keys) == blocks
