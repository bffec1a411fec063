"""Merges several methods' guesses about one sequence into one draft, with each token's acceptance probability."""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.spec.proposer import Guess
from octavo.spec.speedup import expected_tokens


@dataclass(slots=True)
class Blend:
    """Nodes of a tree, parents first. odds: probability that a node is accepted; never more than its parent's."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    odds: list[float] = field(default_factory=list)

    def cut(self, kept: list[int]) -> Guess:
        """The draft of these nodes only, which must include every node's parent."""
        index = {node: i for i, node in enumerate(sorted(kept))}
        parents = [index.get(self.parents[node], -1) for node in index]
        straight = all(parent == i - 1 for i, parent in enumerate(parents))
        return Guess([self.tokens[node] for node in index], 0, None if straight else parents)


def blend(guesses: list[tuple[Guess, float]], trees: bool) -> Blend:
    """guesses: each with its alpha, the probability that a token is accepted, given that all before it are.

    The guess with the most expected tokens is the trunk. With `trees` the others branch off where they disagree. A
    branch's first token can be accepted only if the earlier alternatives are rejected.
    """
    out = Blend()
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    left: dict[int, float] = {}  # parent -> the probability that no child so far is right
    ranked = sorted(guesses, key=lambda pair: -expected_tokens(pair[1], len(pair[0].tokens)))
    for guess, alpha in ranked if trees else ranked[:1]:
        parent, odds = -1, 1.0
        for token in guess.tokens:
            node = nodes.get((parent, token))
            if node is None:
                node = nodes[parent, token] = len(out.tokens)
                out.tokens.append(token)
                out.parents.append(parent)
                out.odds.append(odds * left.get(parent, 1.0) * alpha)
                left[parent] = left.get(parent, 1.0) * (1 - alpha)
            parent, odds = node, out.odds[node]
    return out
