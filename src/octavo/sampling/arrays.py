"""Builds the sampler's flat arrays from sequences. Called every step, so unchanged arrays are reused."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from octavo.sampling.state import Sampler, Settings
from octavo.sampling_params import SamplingParams
from octavo.types import F32, I32, I64, U32, U64, SamplingArrays, Sequence

Value = TypeVar("Value", bound=np.generic)
Columns = tuple[I32, I32, NDArray[Value]]

_PLAIN = Settings(SamplingParams(temperature=0.0), seed=0, vocab_size=0)
_NO_COUNTS = (np.zeros(0, np.int32), np.zeros(0, np.int32))
_NO_BIAS = (np.zeros(0, np.int32), np.zeros(0, np.float32))


class _Edits(NamedTuple):
    """Edits that change with the position: one entry a row, or no entries if no row has any."""

    counts: list[tuple[I32, I32]]
    biases: list[tuple[I32, F32]]
    masks: list[U32 | None]


_NO_EDITS = _Edits([], [], [])


def build(rows: list[tuple[Sequence, int]], vocab_size: int) -> SamplingArrays:
    """The sampler's arrays for these logit rows: (sequence, index in it of the token that the row's logits choose).

    The history of a row is the `position` tokens before it; past the known tokens it continues with the sequence's
    drafts. A row inside the prompt is scored, not sampled, and gets no edits. Steps may share the arrays, so callers
    must not write to them.
    """
    for seq, position in rows:
        sampler = _sampler(seq, vocab_size)
        if sampler.first <= position < sampler.plain_from:
            return _build(rows, vocab_size)
    return greedy(len(rows))


def moved(arrays: SamplingArrays, positions: I64) -> SamplingArrays:
    """The arrays of the same rows at these positions, where all of them are steady: see `Sampler.steady_from`."""
    return arrays if arrays.plain_greedy else replace(arrays, positions=positions)


@lru_cache(maxsize=256)
def greedy(count: int) -> SamplingArrays:
    """Arrays for `count` plain greedy rows."""
    return _assemble((_PLAIN,) * count, np.zeros(count, np.int64), _NO_EDITS, plain_greedy=True)


def _sampler(seq: Sequence, vocab_size: int) -> Sampler:
    """The sequence's sampler, created at first use."""
    if not isinstance(seq.sampler, Sampler):
        seq.sampler = Sampler(seq, vocab_size)
    return seq.sampler


def _build(rows: list[tuple[Sequence, int]], vocab_size: int) -> SamplingArrays:
    settings, edited = [], False
    for seq, position in rows:
        sampler = _sampler(seq, vocab_size)
        chosen = position >= sampler.first
        settings.append(sampler.settings if chosen else _PLAIN)
        edited = edited or (chosen and position < sampler.steady_from)
    positions = np.array([position for _, position in rows], np.int64)
    return _assemble(tuple(settings), positions, _edits(rows, vocab_size) if edited else _NO_EDITS)


def _edits(rows: list[tuple[Sequence, int]], vocab_size: int) -> _Edits:
    edits = _Edits([], [], [])
    for seq, position in rows:
        sampler = _sampler(seq, vocab_size)
        chosen = position >= sampler.first
        edits.counts.append(sampler.history.at(seq, position) if chosen and sampler.history else _NO_COUNTS)
        edits.masks.append(sampler.mask(seq, position) if chosen else None)
        edits.biases.append(sampler.bias(seq, position) if chosen else _NO_BIAS)
        if chosen:
            sampler.check(seq, position, edits.masks[-1], edits.biases[-1])
    return edits


def _add_masks(mask_rows: I32, masks: U32, changing: list[U32 | None]) -> tuple[I32, U32]:
    """Appends the masks of this step's positions to those of the settings."""
    if all(mask is None for mask in changing):
        return mask_rows, masks
    rows, own = mask_rows.copy(), [mask for mask in changing if mask is not None]
    rows[[row for row, mask in enumerate(changing) if mask is not None]] = np.arange(len(masks), len(masks) + len(own))
    return rows, np.stack([*masks, *own])


def _assemble(
    settings: tuple[Settings, ...],
    positions: NDArray[np.int64],
    edits: _Edits,
    plain_greedy: bool = False,
) -> SamplingArrays:
    floats, top_k, seeds, mask_rows, masks = _static(settings)
    mask_rows, masks = _add_masks(mask_rows, masks, edits.masks)
    penalty_starts, penalty_tokens, penalty_counts = _csr(edits.counts, _NO_COUNTS, len(settings))
    bias_starts, bias_tokens, bias_values = _csr(edits.biases, _NO_BIAS, len(settings))
    temperature, top_p, min_p, typical_p, repetition, presence, frequency = floats
    return SamplingArrays(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        repetition=repetition,
        presence=presence,
        frequency=frequency,
        seeds=seeds,
        positions=positions,
        penalty_starts=penalty_starts,
        penalty_tokens=penalty_tokens,
        penalty_counts=penalty_counts,
        bias_starts=bias_starts,
        bias_tokens=bias_tokens,
        bias_values=bias_values,
        mask_rows=mask_rows,
        masks=masks,
        plain_greedy=plain_greedy,
    )


@lru_cache(maxsize=16)
def _static(settings: tuple[Settings, ...]) -> tuple[F32, I32, U64, I32, U32]:
    """(floats [7, R], top_k, seeds, mask_rows, masks) for rows of these settings, cached between steps."""
    floats = np.array([entry.floats for entry in settings], np.float32).reshape(-1, 7).T.copy()
    top_k = np.array([entry.top_k for entry in settings], np.int32)
    seeds = np.array([entry.seed for entry in settings], np.uint64)
    distinct = {entry: entry.mask for entry in settings if entry.mask is not None}
    index = {entry: row for row, entry in enumerate(distinct)}
    mask_rows = np.array([index.get(entry, -1) for entry in settings], np.int32)
    masks = np.stack(list(distinct.values())) if distinct else np.zeros((0, 0), np.uint32)
    for array in (floats, top_k, seeds, mask_rows, masks):
        array.flags.writeable = False
    return floats, top_k, seeds, mask_rows, masks


def _csr(entries: list[tuple[I32, NDArray[Value]]], empty: tuple[I32, NDArray[Value]], rows: int) -> Columns[Value]:
    """(starts [R+1], tokens, values) of a list of (tokens, values), one a row."""
    lengths = [tokens.size for tokens, _ in entries]
    if not any(lengths):
        return _zeros(rows + 1), *empty
    starts = np.zeros(rows + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    return starts, np.concatenate([tokens for tokens, _ in entries]), np.concatenate([values for _, values in entries])


@lru_cache(maxsize=256)
def _zeros(count: int) -> I32:
    zeros = np.zeros(count, np.int32)
    zeros.flags.writeable = False
    return zeros
