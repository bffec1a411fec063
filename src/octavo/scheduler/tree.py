"""Draft trees in a batch (SpecInfer 2305.09781): their rows, the accepted path, and its compaction into a chain.

A sequence's pending token is the root; node i of its drafts lies `1 + i` slots behind it. Each node's row chooses the
token after it, with the random number of its position, so the walk below is exact by construction: at each node the
model's own choice is final, and the walk continues if a child guessed it.
"""

from __future__ import annotations

import copy

import numpy as np

from octavo.types import I32, ScheduledSequence, Sequence

Row = tuple[Sequence, int]


def depths(parents: list[int]) -> list[int]:
    """The depth of each node; the first level is 1."""
    out: list[int] = []
    for parent in parents:
        out.append(1 if parent < 0 else out[parent] + 1)
    return out


def path_to(node: int, parents: list[int]) -> list[int]:
    """The nodes from the first level down to `node`."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


def rows(seq: Sequence, start: int, parents: list[int]) -> list[Row]:
    """The logit rows of the root and of each node; a node's row sees the drafts on its own path only."""
    out = [(seq, start + 1)]
    for node, depth in enumerate(depths(parents)):
        branch = copy.copy(seq)
        branch.drafts = [seq.drafts[i] for i in path_to(node, parents)]
        out.append((branch, start + depth + 1))
    return out


def plant(entries: list[ScheduledSequence], starts: I32, positions: I32) -> I32:
    """Returns Batch.parents [T] and rewrites the nodes' entries of `positions` [T], which so far follow slot order."""
    out = np.full(len(positions), -1, np.int32)
    for entry, stop in zip(entries, starts[1:].tolist(), strict=True):
        if entry.parents is not None:
            root = stop - entry.num_drafts - 1
            out[root + 1 : stop] = np.array(entry.parents, np.int32) + (root + 1)
            positions[root + 1 : stop] = positions[root] + np.array(depths(entry.parents), np.int32)
    return out


def accepted_path(sampled: list[int], drafts: list[int], parents: list[int]) -> list[int]:
    """The accepted nodes, from the root down. sampled[0] follows the root, sampled[1 + i] node i."""
    children: dict[tuple[int, int], int] = {}
    for node, (parent, token) in enumerate(zip(parents, drafts, strict=True)):
        children.setdefault((parent, token), node)
    path: list[int] = []
    reached = children.get((-1, sampled[0]))
    while reached is not None:
        path.append(reached)
        reached = children.get((reached, sampled[1 + reached]))
    return path


def compaction(first: int, path: list[int]) -> list[tuple[int, int]]:
    """(source, target) entries of the sequence's KV that move an accepted path right behind the root.

    No target is a later source. first: the entry of node 0."""
    return [(first + node, first + place) for place, node in enumerate(path) if node != place]
