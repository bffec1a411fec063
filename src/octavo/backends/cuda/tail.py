"""The end of a step on the device: from logits to tokens, with what `sampling/rules.py` chooses.

Of each row: the largest logit (`best`), and the token of a greedy row (`greedy`). Only where rows need it: edits and a
choice (`edit`, `sample`), and logprobs. What comes back is four numbers a row: token, finite, logprob, rank.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from octavo.backends.cuda.kernels import best, edit, logprobs, order, sample
from octavo.backends.cuda.launch import INTERPRETED, LOGITS, Launch, rows_at_once
from octavo.errors import ConfigError
from octavo.sampling import rules
from octavo.types import F32, I32, Batch, SamplingArrays

BLOCK = 512 if INTERPRETED else 2048  # logits that a program has at once where it walks a row
WARPS = {} if INTERPRETED else {"num_warps": 16}
ENTRIES = 128  # biases or penalties at once
NONE = np.zeros(0, np.int32)


class Tail:
    """Buffers for `height` rows at once of `vocab` logits each."""

    def __init__(self, vocab: int, height: int, device: torch.device):
        if vocab > order.MAX_TOKENS:
            raise ConfigError(f"backend cuda chooses from at most {order.MAX_TOKENS} tokens; the model has {vocab}")
        self.vocab = vocab
        self.chunks = -(-vocab // LOGITS)
        self.bests = torch.zeros(height, self.chunks, dtype=torch.int64, device=device)
        self.edited = torch.zeros(height, vocab, device=device)

    @property
    def nbytes(self) -> int:
        return int(self.bests.nbytes + self.edited.nbytes)

    def greedy(self, out: Tensor, logits: Tensor, targets: Tensor) -> list[Launch]:
        """out int32 [rows, RECORD]: see `kernels.best`. targets [rows]."""
        rows = len(targets)
        each = rows_at_once(rows, 16)
        programs = -(-rows // each)
        count = 1 << (self.chunks - 1).bit_length()
        found = (self.bests, logits, rows, self.vocab, logits.stride(0))
        return [
            Launch(best.best, (programs, self.chunks), found, {"CHUNK": LOGITS, "ROWS": each}),
            Launch(
                best.greedy,
                (programs,),
                (out, self.bests, targets, rows),
                {"CHUNKS": self.chunks, "BLOCK": count, "ROWS": each},
            ),
        ]

    def choose(self, out: Tensor, logits: Tensor, choices: Tensor, rows: int) -> list[Launch]:
        """Overwrites the tokens of `rows` rows. choices: what the function of this name made, on the device."""
        edits = (self.edited, logits, choices, rows, self.vocab, logits.stride(0))
        picks = (out, self.edited, choices, rows, self.vocab)
        return [
            Launch(edit.edit, (rows,), edits, {"BLOCK": BLOCK, "ENTRIES": ENTRIES, **WARPS}),
            Launch(sample.sample, (rows,), picks, {"BLOCK": BLOCK, **WARPS}),
        ]

    def logprobs(self, out: Tensor, tops: Tensor, logits: Tensor) -> list[Launch]:
        """For tokens in `out` [rows, RECORD], after `greedy`. tops int32 [rows, 2, n]."""
        count = 1 << (self.chunks - 1).bit_length()
        arguments = (out, tops, logits, self.bests, tops.shape[2], self.vocab, logits.stride(0))
        constants = {"CHUNKS": self.chunks, "COUNT": count, "CHUNK": LOGITS, **WARPS}
        return [Launch(logprobs.logprobs, (len(out),), arguments, constants)]


def choosing(batch: Batch) -> I32:
    """The rows that `greedy` does not answer: with a temperature or edits, and without a target."""
    arrays = batch.sampling
    if arrays.plain_greedy:
        return NONE
    edited = (np.diff(arrays.penalty_starts) > 0) | (np.diff(arrays.bias_starts) > 0) | (arrays.mask_rows >= 0)
    return np.flatnonzero(((arrays.temperature > 0) | edited) & (batch.targets < 0)).astype(np.int32)


def choices(arrays: SamplingArrays, rows: I32, first: int = 0) -> I32:
    """The settings of these rows and their lists in one array: see `kernels.edit`. first: the row that is row 0 of the
    logits."""
    lists = edit.FIELDS * len(rows)
    masks, used = _masks(arrays, rows)
    biases = _pairs(arrays.bias_tokens, arrays.bias_values.view(np.int32))
    seen = _pairs(arrays.penalty_tokens, arrays.penalty_counts)
    bias_at, seen_at = lists + len(masks), lists + len(masks) + len(biases)
    mask_at = np.where(used >= 0, lists + used * arrays.masks.shape[1], -1)
    fields = [
        rows - first,
        arrays.temperature[rows],
        _floors(arrays.min_p[rows]),
        arrays.top_k[rows],
        arrays.top_p[rows],
        arrays.typical_p[rows],
        arrays.repetition[rows],
        arrays.frequency[rows],
        arrays.presence[rows],
        *_words(arrays.seeds[rows]),
        *_words(arrays.positions[rows]),
        mask_at,
        bias_at + 2 * arrays.bias_starts[rows],
        arrays.bias_starts[rows + 1] - arrays.bias_starts[rows],
        seen_at + 2 * arrays.penalty_starts[rows],
        arrays.penalty_starts[rows + 1] - arrays.penalty_starts[rows],
    ]
    return np.concatenate([*map(_as_int32, fields), masks, biases, seen])


def _pairs(tokens: I32, values: I32) -> I32:
    """Each token followed by its value."""
    return np.stack([tokens, values], 1).reshape(-1) if len(tokens) else NONE


def _masks(arrays: SamplingArrays, rows: I32) -> tuple[I32, I32]:
    """(the masks of these rows, which of them each row has: -1 none)."""
    if not len(arrays.masks):
        return NONE, np.full(len(rows), -1, np.int32)
    wanted, used = np.unique(arrays.mask_rows[rows], return_inverse=True)
    none = int((wanted < 0).any())
    return arrays.masks[wanted[none:]].view(np.int32).reshape(-1), used.reshape(-1).astype(np.int32) - none


def _floors(min_p: F32) -> F32:
    """Weights are 0 below z = log(min_p), as `rules.weights` rounds it, and below NO_WEIGHT."""
    if not min_p.any():
        return np.full(len(min_p), rules.NO_WEIGHT)
    floors = [rules.NO_WEIGHT if p <= 0 else max(rules.NO_WEIGHT, np.float32(math.log(p))) for p in min_p.tolist()]
    return np.array(floors, np.float32)


def _words(values: np.ndarray) -> tuple[I32, I32]:
    """The low and the high half of 64-bit integers."""
    halves = np.ascontiguousarray(values).view(np.int32).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _as_int32(values: np.ndarray) -> I32:
    return values.view(np.int32) if values.dtype == np.float32 else values.astype(np.int32)
