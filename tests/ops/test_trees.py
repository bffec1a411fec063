"""Draft trees: a node's result is bitwise that of decoding after its ancestors, and keys can be moved by slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo import _native
from octavo.types import F32, I32
from tests.ops import twins
from tests.ops.test_attention import CACHES, Context

GEOMETRY = [(6, 2, 64), (7, 1, 64), (4, 1, 256), (32, 1, 16)]  # heads, kv heads, head_dim


class Tree(Context):
    """`committed` tokens, of which the last is the root, then the nodes of a random tree, one row each."""

    def __init__(
        self, committed: int, nodes: int, heads: int, kv_heads: int, head_dim: int, seed: int = 0, **options: Any
    ):
        super().__init__(committed + nodes, heads, kv_heads, head_dim, seed=seed, **options)
        rng = np.random.default_rng(seed)
        self.committed = committed
        self.parent = [int(rng.integers(max(-1, node - 4), node)) for node in range(nodes)]  # -1: the root
        self.place_nodes()

    def place_nodes(self) -> None:
        """Writes the nodes anew, at the positions that the parents give them."""
        for node in range(len(self.parent)):
            self.positions[self.committed + node] = self.committed + len(self.path(node)) - 1
        self.write(self.committed, self.length)

    def path(self, node: int) -> list[int]:
        """Cache positions of the nodes from the first level down to this one."""
        path = []
        while node >= 0:
            path.append(self.committed + node)
            node = self.parent[node]
        return path[::-1]

    def parents(self, ordinary: int) -> I32:
        """The parents of a batch of the last `ordinary` committed tokens and the nodes."""
        return np.array([-1] * ordinary + [ordinary + parent for parent in self.parent], np.int32)

    def nodes(self, isa: str, ordinary: int = 1, cut: bool | None = None) -> F32:
        """The results of the nodes' rows in one step: [nodes, ...]."""
        span = (self.committed - ordinary, self.length)
        [out] = self.attend(isa, span, cut=cut, parents=self.parents(ordinary))
        return out[ordinary:]

    def twin_of(self, node: int) -> F32:
        seen = np.array([*range(self.committed), *self.path(node)])
        return self.seen_from(seen, self.q[seen[-1:]], len(seen) - 1).reshape(-1)


def alone(isa: str, tree: Tree, line: Context, node: int) -> F32:
    """The node's result when its path is decoded as a chain in `line`, which has the tree's committed tokens."""
    path = tree.path(node)
    stop = tree.committed + len(path)
    line.positions = np.arange(line.length, dtype=np.int32)
    for x, y in ((line.q, tree.q), (line.k, tree.k), (line.v, tree.v)):
        x[tree.committed : stop] = y[path]
    line.write(tree.committed, stop)
    return line.attend(isa, (stop - 1, stop))[0]


def assert_exact(
    isa: str, committed: int, nodes: int, heads: int, kv_heads: int, head_dim: int, ordinary: int = 1, **options: Any
) -> None:
    tree, line = (Tree(committed, nodes, heads, kv_heads, head_dim, **options) for _ in range(2))
    rows = tree.nodes(isa, ordinary)
    for node, row in enumerate(rows):
        assert row.tobytes() == alone(isa, tree, line, node).tobytes(), (committed, nodes, node, tree.path(node))


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
@pytest.mark.parametrize("shape", GEOMETRY)
def test_a_node_is_the_same_bits_as_its_chain(isa: str, shape: tuple[int, ...], kv_type: str, block_size: int):
    for committed, nodes in [(1, 9), (70, 3), (127, 21)]:
        assert_exact(isa, committed, nodes, *shape, kv_type=kv_type, block_size=block_size)


@pytest.mark.parametrize("committed", [15, 16, 17, 63, 64, 65, 505, 511, 512, 513, 1020])
@pytest.mark.parametrize("nodes", [5, 24])
def test_wherever_the_tree_begins(isa: str, committed: int, nodes: int):
    assert_exact(isa, committed, nodes, 3, 1, 64, seed=committed)


@pytest.mark.parametrize(("window", "softcap"), [(1, 0.0), (3, 0.0), (40, 5.0), (600, 0.0)])
def test_windows_count_positions_not_rows(isa: str, window: int, softcap: float):
    assert_exact(isa, 620, 18, 3, 1, 64, window=window, softcap=softcap)


def test_a_deep_tree_passes_through_several_steps(isa: str):
    tree, line = (Tree(60, 150, 2, 1, 32) for _ in range(2))
    tree.parent = line.parent = [max(-1, node - 1 - node % 2) for node in range(150)]  # a chain with leaves
    tree.place_nodes()
    rows = tree.nodes(isa)
    for node in (0, 1, 77, 148, 149):
        assert rows[node].tobytes() == alone(isa, tree, line, node).tobytes()


@pytest.mark.parametrize("ordinary", [2, 9, 40])
def test_ordinary_rows_before_the_root_are_untouched(isa: str, ordinary: int):
    tree = Tree(530, 6, 3, 1, 64)
    [out] = tree.attend(isa, (530 - ordinary, 536), parents=tree.parents(ordinary))
    assert out[:ordinary].tobytes() == tree.attend(isa, (530 - ordinary, 530))[0].tobytes()
    assert_exact(isa, 530, 6, 3, 1, 64, ordinary=ordinary)


def test_cutting_along_the_keys_changes_no_bit(isa: str):
    """Seven nodes and the root are cut by splits; with one more ordinary row they are not."""
    tree = Tree(1021, 7, 3, 1, 64)
    assert tree.nodes(isa, 1, cut=True).tobytes() == tree.nodes(isa, 2, cut=False).tobytes()


@pytest.mark.parametrize("kv_type", twins.CACHED)
def test_near_the_twin(isa: str, kv_type: str):
    tree = Tree(130, 12, 6, 2, 64, kv_type=kv_type, window=100)
    twin = np.array([tree.twin_of(node) for node in range(12)])
    assert np.abs(tree.nodes(isa) - twin).max() < twins.ATTENTION_NEAR[kv_type]


def test_nodes_off_the_path_are_not_seen(isa: str):
    tree = Tree(20, 8, 2, 1, 64)
    tree.parent = [-1, -1, 0, 1, 2, 3, 4, 5]  # two branches
    tree.place_nodes()
    before = tree.nodes(isa)
    for node in (1, 3, 5, 7):
        tree.k[20 + node], tree.v[20 + node] = np.nan, np.nan
    tree.write(20, 28)
    assert tree.nodes(isa)[::2].tobytes() == before[::2].tobytes()


def test_a_parent_is_an_earlier_row_of_its_sequence():
    context = Context(40, 2, 1, 64)
    for parents in ([-1, 1], [1, -1]):
        with pytest.raises(ValueError, match="earlier row"):
            context.attend("portable", (38, 40), parents=np.array(parents, np.int32))
    with pytest.raises(ValueError, match="earlier row"):
        context.attend("portable", (1, 2), (5, 6), parents=np.array([-1, 0], np.int32))
    with pytest.raises(ValueError, match="one entry a token"):
        context.attend("portable", (1, 2), parents=np.array([-1, -1], np.int32))


@pytest.mark.parametrize(("kv_type", "block_size"), CACHES)
def test_moving_a_key_moves_that_key_alone(kv_type: str, block_size: int):
    context = Context(90, 4, 2, 64, kv_type, block_size)
    before = [context.layout.read(context.memory, block) for block in context.table]
    for source, target in [(80, 3), (17, 18), (3, 50)]:
        _native.ops.copy_slot(context.cache, int(context.slots[source]), int(context.slots[target]))
    after = [context.layout.read(context.memory, block) for block in context.table]
    for plane in (0, 1):
        want, got = (np.concatenate([block[plane] for block in blocks], 1) for blocks in (before, after))
        for source, target in [(80, 3), (17, 18), (80, 50)]:
            want[:, target] = want[:, source]
        assert np.array_equal(got[:, :90], want[:, :90])
