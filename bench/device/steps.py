"""Batches without a scheduler: decoding beside long contexts, and a prompt."""

from __future__ import annotations

import numpy as np

from octavo.types import Batch
from tests.batches import Row, make_batch

BLOCK = 16


def decoding(sequences: int, context: int, vocab: int) -> Batch:
    """One token each, whose keys fill `context` places; every sequence has blocks of its own."""
    dice, blocks = np.random.default_rng(sequences), -(-context // BLOCK)
    tables = dice.permutation(sequences * blocks).reshape(sequences, blocks).tolist()
    ids = dice.integers(0, vocab, sequences).tolist()
    return make_batch([Row([id], start=context - 1, table=table) for id, table in zip(ids, tables, strict=True)])


def prompt(tokens: int, vocab: int) -> Batch:
    return make_batch([Row(np.random.default_rng(tokens).integers(0, vocab, tokens).tolist())])


def blocks(sequences: int, context: int) -> int:
    return sequences * -(-context // BLOCK)
