"""A batch as one array of int32, copied to the device at once: the blob. Kernels read all of it from memory, so a
captured graph holds for any batch of its size.

The blob begins with a header and the fields of one entry a row, whose places follow from the numbers of rows. Block
tables, paths and work lists have any length and lie behind; the header says where, and how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from octavo.backends.cuda.launch import MAX_PARTS, PART_TOKENS, RECORD
from octavo.backends.cuda.stream import Stream, Upload
from octavo.backends.cuda.work import LISTS, NO_TAIL, View, aligned, blob_size, header_size, keys, max_rows, work
from octavo.types import I32, Batch

TABLES = 0  # header: where the block tables begin, and their width
WHOLE, PARTS, ADDED = 0, 2, 4


@dataclass(frozen=True)
class Fields:
    """The parts of the blob that have one entry for each of T tokens or R logit rows."""

    blob: Tensor
    tokens: int
    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    last: Tensor
    tails: Tensor
    path_at: Tensor
    part_at: tuple[Tensor, ...]  # for each view
    logit_rows: Tensor
    targets: Tensor
    out: Tensor  # [R, RECORD]: what the step gives
    previous: Tensor  # [.., RECORD]: what the step before gave, until this one's tail writes over it

    def rows(self, part: slice) -> Fields:
        """The same step with some of its logit rows."""
        return replace(self, logit_rows=self.logit_rows[part], targets=self.targets[part], out=self.out[part])


class Steps:
    """Fills the blob. views: of all layers. The blob has room for what max_* allow."""

    def __init__(self, views: Sequence[View], max_tokens: int, max_seqs: int, max_blocks: int, stream: Stream):
        self.views = list(views)
        self.max_rows = max_rows(max_tokens, max_seqs)
        self._upload = Upload(stream, blob_size(len(views), max_tokens, max_seqs, max_blocks))
        self.blob = self._upload.data
        self.out = torch.zeros(self.max_rows, RECORD, dtype=torch.int32, device=stream.device)

    @property
    def nbytes(self) -> int:
        return int(self.blob.nbytes + self.out.nbytes)

    @property
    def _header(self) -> int:
        return header_size(len(self.views))

    def header(self, view: View, which: int) -> int:
        """The place in the header of one of the view's lists."""
        return LISTS + 6 * self.views.index(view) + which

    def fields(self, tokens: int, rows: int) -> Fields:
        """Where the parts of a step of this size lie. Each begins on 16 bytes, for which kernels are compiled."""
        sizes = [tokens] * (6 + len(self.views)) + [rows, rows]
        starts = np.cumsum([self._header, *map(aligned, sizes)]).tolist()
        parts = [self.blob[at : at + size] for at, size in zip(starts, sizes, strict=False)]
        ids, positions, slots, last, tails, path_at, *part_at, logit_rows, targets = parts
        return Fields(
            self.blob, tokens, ids, positions, slots, last, tails, path_at, tuple(part_at), logit_rows, targets,
            self.out[:rows], self.out,
        )  # fmt: skip

    def fill(self, batch: Batch, tokens: int, rows: int) -> None:
        """Writes a batch, padded to this many tokens and logit rows. Padding has slot -1 and no work."""
        found = keys(batch)
        lists = [
            work(batch, found, v.window, v.split, v.whole_tile, v.parts_tile, PART_TOKENS, MAX_PARTS)
            for v in self.views
        ]
        by_token = [
            (batch.token_ids, 0), (batch.positions, 0), (batch.slot_mapping, -1), (found.last, 0),
            (found.tails, NO_TAIL), (found.path_at, 0), *((w.part_at, -1) for w in lists),
        ]  # fmt: skip
        padded = [_padded(array, tokens, fill) for array, fill in by_token]
        padded += [_padded(batch.logit_rows, rows, 0), _padded(batch.targets, rows, -1)]
        header = np.zeros(self._header, np.int32)
        at = self._header + sum(map(len, padded))
        header[TABLES : TABLES + 2] = at, batch.block_tables.shape[1]
        behind = [batch.block_tables.reshape(-1), found.paths]
        start = at + batch.block_tables.size
        padded[5] = padded[5] + start  # paths
        start += len(found.paths)
        for i, lists_of_view in enumerate(lists):
            for which, listed in (
                (WHOLE, lists_of_view.whole),
                (PARTS, lists_of_view.parts),
                (ADDED, lists_of_view.added),
            ):
                header[LISTS + 6 * i + which : LISTS + 6 * i + which + 2] = start, len(listed)
                behind.append(listed.reshape(-1))
                start += listed.size
        whole = np.concatenate([header, *padded, *behind])
        assert len(whole) <= len(self.blob), "a batch is larger than its limits"
        self._upload(whole)


def _padded(array: I32, size: int, fill: int) -> I32:
    if len(array) == aligned(size):
        return array
    out = np.full(aligned(size), fill, np.int32)
    out[: len(array)] = array
    return out
