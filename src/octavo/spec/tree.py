"""Draft trees (SpecInfer 2305.09781; Sequoia 2402.12374): chains of one or more methods, merged where they agree.

A tree of n nodes costs as many rows as a chain of n, and wins where the first guesses are often wrong but the second
ones right. The scheduler's part (rows, accepted path, compaction) is scheduler/tree.py.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Protocol

from octavo.spec.proposer import Drafter, Guess, observers
from octavo.types import ScheduledSequence, Sequence, StepResult

Chains = list[list[int]]


class Branching(Drafter, Protocol):
    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[Chains]:
        """For each sequence, chains of at most `limits[i]` tokens, most likely first; about `width` branches at a
        node."""


class TreeDrafter:
    """tokens: nodes of a tree. trees: whether the backend can verify trees; if not, the guess is the most likely
    chain."""

    name = "tree"

    def __init__(self, parts: list[Branching], width: int, tokens: int, trees: bool):
        self._parts = parts
        self._width = width if trees else 1
        self._tokens = tokens
        self._trees = trees
        self.runs_model = any(part.runs_model for part in parts)
        self._observers = observers(parts)
        self.wants_hidden = any(observer.wants_hidden for observer in self._observers)

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        found = [part.chains(sequences, limits, self._width) for part in self._parts]
        return [self._merge(chains, limit) for *chains, limit in zip(*found, limits, strict=True)]

    def _merge(self, found: list[Chains], limit: int) -> Guess:
        """Merges the methods' chains alternately, so that each method's best chain is included."""
        chains = [chain for turn in zip_longest(*found) for chain in turn if chain]
        if not self._trees:
            return Guess(chains[0] if chains else [])
        return merge(chains, min(self._tokens, limit * self._width))

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        for observer in self._observers:
            observer.observe(entries, result, seconds)


def merge(chains: Chains, limit: int) -> Guess:
    """Merges chains into a tree of at most `limit` nodes; earlier chains come first."""
    tokens: list[int] = []
    parents: list[int] = []
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    for chain in chains:
        parent = -1
        for token in chain:
            node = nodes.get((parent, token))
            if node is None:
                if len(tokens) == limit:
                    break
                node = nodes[parent, token] = len(tokens)
                tokens.append(token)
                parents.append(parent)
            parent = node
    straight = all(parent == node - 1 for node, parent in enumerate(parents))
    return Guess(tokens, 0, None if straight else parents)
