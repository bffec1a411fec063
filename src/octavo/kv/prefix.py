"""Keys of block contents for prefix sharing: a hash chain, so equal keys mean equal tokens at equal positions.

key(i) = sha256(key(i - 1), token ids of block i), key(-1) = sha256(cache salt, adapter, eviction). A collision would
show one user another user's text, so the hash is cryptographic.

The last bit of a key says whether the client gave a salt, so that a tier below the pool can refuse such blocks. What a
server puts before a client's salt, to separate its clients, ends with a zero byte and does not count.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import sha256

from octavo.kv.blocks import BlockPool


@lru_cache(maxsize=1024)
def root_key(cache_salt: str, adapter: str = "", eviction: str = "") -> bytes:
    """The chain's start. Lengths are hashed too: ("ab", "c") and ("a", "bc") must differ. eviction: what hides tokens
    changes the content of the blocks after them."""
    named = (cache_salt, adapter, eviction) if eviction else (cache_salt, adapter)
    parts = [text.encode("utf-8", "surrogatepass") for text in named]
    digest = sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()
    return _marked(digest, not (cache_salt == "" or cache_salt.endswith("\0")))


def is_private(key: bytes) -> bool:
    """Whether the key is that of a request whose client gave a salt."""
    return bool(key[-1] & 1)


def _marked(digest: bytes, private: bool) -> bytes:
    return digest if digest[-1] & 1 == private else digest[:-1] + bytes((digest[-1] ^ 1,))


def extend_chain(keys: list[bytes], token_ids: list[int], count: int, block_size: int, root: bytes) -> None:
    """Extends `keys` in place to the first `count` blocks. Each block is hashed once."""
    parent = keys[-1] if keys else root
    private = is_private(parent)
    for index in range(len(keys), count):
        tokens = array("i", token_ids[index * block_size : (index + 1) * block_size])
        assert len(tokens) == block_size
        parent = _marked(sha256(parent + tokens.tobytes()).digest(), private)
        keys.append(parent)


def match(pool: BlockPool, keys: list[bytes]) -> list[int]:
    """The cached blocks of the longest matching prefix of the chain. Takes no references."""
    blocks = []
    for key in keys:
        block = pool.lookup(key)
        if block is None:
            break
        blocks.append(block)
    return blocks
