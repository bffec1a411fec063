"""What the next step may take for granted while the device still computes this one.

The assumption: each sequence of this step that samples gets one token that ends nothing. Lengths are known, so a
sequence that reaches its limit with this token is known to end. Commit finds out everything else. If a sequence ends
there (a stop token, a logit that is not finite), or its request was aborted, its row of the next step is dropped.

A sequence may thus lose its blocks before a step has written to them. This is safe: the next owner of the blocks writes
to them in a later step, and the device runs steps in order.
"""

from __future__ import annotations

from octavo.scheduler.queue import RequestQueue
from octavo.types import ScheduledSequence, Sequence, SnapKV, Status


class WouldPreempt(Exception):
    """The next step needs blocks that only a preemption can free, so it waits for the result of this one.

    Otherwise a result could arrive for a sequence whose cache is gone."""


def foreseeable(queue: RequestQueue, entries: list[ScheduledSequence]) -> bool:
    """Whether the next step can be planned and built without the tokens of this one."""
    return all([_foreseeable(queue, entry.seq) for entry in entries if entry.samples])


def _foreseeable(queue: RequestQueue, seq: Sequence) -> bool:
    if seq in queue.siblings:  # they start from its first token (n > 1)
        return False
    if isinstance(seq.eviction, SnapKV) and seq in queue.prefilling:  # its table is about to be exchanged
        return False
    return _ends(seq) or (seq.sampler is not None and not seq.sampler.needs_tokens)


def _ends(seq: Sequence) -> bool:
    """Whether the next token is the last one, whatever it is."""
    return seq.request.pooling is not None or len(seq.token_ids) + 1 >= seq.max_length


class Assumption:
    """Makes the sequences of a step look as if it had been committed; `undo` restores them.

    An unknown token is written as -1 - row, where `row` is the logit row that chooses it: see `types.Batch`. The queue,
    the cache and its keys do not change: what is not certain yet is shared with nobody.

    ending: sequences that end with this step. They keep their blocks until it is committed, and run no more.
    """

    def __init__(self, queue: RequestQueue, entries: list[ScheduledSequence]):
        self.ending: set[Sequence] = set()
        self._queue = queue
        self._entries = [entry for entry in entries if entry.seq.status is not Status.FINISHED]
        self._prefilled = [entry.seq for entry in self._entries if entry.samples and entry.seq in queue.prefilling]
        queue.prefilling.difference_update(self._prefilled)
        for entry in self._entries:
            seq = entry.seq
            _move(seq, entry.num_tokens)
            if not entry.samples:
                continue
            if _ends(seq):
                self.ending.add(seq)
            else:
                seq.token_ids.append(-1 - (entry.row_stop - 1))  # its last row chooses it

    def undo(self) -> None:
        for entry in self._entries:
            seq = entry.seq
            if entry.samples and seq not in self.ending:
                del seq.token_ids[-1]
            if seq.status is not Status.FINISHED:  # by its deadline, meanwhile: it has no blocks
                _move(seq, -entry.num_tokens)
        running = [seq for seq in self._prefilled if seq.status is not Status.FINISHED]
        if running:
            self._queue.prefilling.update(running)
            self._queue.reconsider()


def _move(seq: Sequence, tokens: int) -> None:
    seq.num_computed_tokens += tokens
    seq.kv_length += tokens
