"""Applies a step's result to each sequence: accepted tokens, stop rules and logprobs."""

from __future__ import annotations

from collections.abc import Sequence as Many

from octavo.scheduler import tree
from octavo.scheduler.queue import RequestQueue
from octavo.types import ScheduledSequence, Sequence, SequenceDelta, Status, StepResult, TokenLogprob


class Commit:
    """Applies one step's results to the sequences and the queue.

    The logit rows of a sequence are, in order: scored prompt tokens, the sampled rows (1 + drafts), the first tokens of
    its siblings.
    """

    def __init__(self, queue: RequestQueue, entries: list[ScheduledSequence], result: StepResult):
        self._queue = queue
        self._entries = entries
        self._result = result
        self._tokens: list[int] = result.token_ids.tolist()
        self._all_finite = bool(result.finite.all())

    def deltas(self) -> list[SequenceDelta]:
        deltas: list[SequenceDelta] = []
        for entry in self._entries:
            if entry.seq.status is not Status.FINISHED:  # a sibling's error ends the whole request
                self._commit(entry, deltas)
        return deltas

    def _commit(self, entry: ScheduledSequence, deltas: list[SequenceDelta]) -> None:
        seq = entry.seq
        first = entry.row_stop - (1 + entry.num_drafts + len(entry.forks) if entry.samples else 0)
        rows = self._verify(entry, first) if entry.num_drafts else range(first, first + 1)
        if not (self._all_finite or self._finite(entry, rows)):
            deltas += self._queue.end_request(seq.request.request_id, "error")
            return
        delta = seq.delta()
        if first > entry.row_start or seq.request.pooling is not None:
            self._score(delta, entry, first)
        if entry.samples:
            self._queue.prefilling.discard(seq)
            self._append(seq, delta, rows)
            entry.last_row = rows[-1]
        self._advance(seq, entry.num_tokens - entry.num_drafts + entry.accepted)
        if entry.samples or delta.prompt_logprobs is not None or delta.hidden is not None:
            deltas.append(delta)
        if entry.samples and seq in self._queue.siblings:
            self._start_siblings(entry, first + 1, deltas)
        if seq.finish_reason is not None:
            self._finish(seq, delta)

    def _finite(self, entry: ScheduledSequence, rows: Many[int]) -> bool:
        """Whether all final rows are finite; with drafts, these are the accepted rows."""
        finite = self._result.finite
        return bool(finite[list(rows)].all() if entry.num_drafts else finite[entry.row_start : entry.row_stop].all())

    def _verify(self, entry: ScheduledSequence, first: int) -> Many[int]:
        """The rows whose tokens are final: the first row and those of the accepted drafts."""
        sampled, drafts = self._tokens[first : entry.row_stop], entry.seq.drafts
        if entry.parents is None:
            entry.accepted = agreeing(sampled, drafts)
            rows: Many[int] = range(first, first + entry.accepted + 1)
        else:
            path = tree.accepted_path(sampled, drafts, entry.parents)
            entry.accepted = len(path)
            rows = [first, *(first + 1 + node for node in path)]
            self._compact(entry.seq, path)
        self._count(entry)
        return rows

    def _compact(self, seq: Sequence, path: list[int]) -> None:
        """Moves the KV of a tree's accepted path to the slots that a chain would use."""
        cache, root = self._queue.cache, seq.kv_length
        moves = tree.compaction(root + 1, path)
        cache.transfers.moves += [(cache.tables.slot(seq, source), cache.tables.slot(seq, to)) for source, to in moves]

    def _count(self, entry: ScheduledSequence) -> None:
        stats = self._queue.stats
        stats.drafts += 1
        stats.draft_tokens += entry.num_drafts
        stats.accepted_tokens += entry.accepted
        stats.whole_drafts += entry.accepted == entry.num_drafts
        stats.draft_lengths[entry.num_drafts] += 1
        stats.accepted_at.update(range(entry.accepted))

    def _append(self, seq: Sequence, delta: SequenceDelta, rows: Many[int]) -> None:
        """Appends the tokens sampled by these rows, up to the first that ends the sequence."""
        if seq.request.pooling is not None:
            seq.finish_reason = "stop"
            return
        delta.token_ids = [self._tokens[row] for row in rows]
        taken = append(seq, delta.token_ids)
        del delta.token_ids[taken:]
        self._queue.stats.generation_tokens += taken
        if (count := seq.request.params.logprobs) is not None:
            delta.logprobs = read_logprobs(self._result, rows[:taken], count)
            seq.cumulative_logprob += sum(entry.logprob for entry in delta.logprobs)

    def _advance(self, seq: Sequence, computed: int) -> None:
        """Marks tokens whose KV is final. Excludes rejected drafts and tokens after the one that ended the sequence."""
        start, count = seq.kv_length, min(computed, len(seq.token_ids) - seq.num_computed_tokens)
        seq.num_computed_tokens += count
        seq.kv_length += count
        if seq.drafts:
            seq.drafts = []
        self._queue.cache.commit(seq, start)

    def _score(self, delta: SequenceDelta, entry: ScheduledSequence, first: int) -> None:
        """Adds the results of scored prompt rows to the delta: logprobs, and hidden states for a pooled request."""
        seq, rows = entry.seq, range(entry.row_start, first)
        seq.num_scored_tokens += len(rows)
        if rows and (count := seq.request.params.prompt_logprobs) is not None:
            delta.prompt_logprobs = read_logprobs(self._result, rows, count)
        if seq.request.pooling is not None and entry.row_stop > entry.row_start:
            assert self._result.hidden is not None
            delta.hidden = self._result.hidden[entry.row_start : entry.row_stop].copy()

    def _start_siblings(self, entry: ScheduledSequence, first: int, deltas: list[SequenceDelta]) -> None:
        """Starts the siblings (n > 1), whose first tokens are in rows `first` onwards. Siblings without room are
        queued."""
        siblings = self._queue.siblings.pop(entry.seq)
        for row, sibling in enumerate(entry.forks, first):
            deltas.append(delta := sibling.delta())
            self._append(sibling, delta, range(row, row + 1))
            if sibling.finish_reason is None:
                self._queue.fork(entry.seq, sibling)
            else:
                self._finish(sibling, delta)
        for sibling in siblings[len(entry.forks) :]:
            self._queue.wait(sibling)

    def _finish(self, seq: Sequence, delta: SequenceDelta) -> None:
        assert seq.finish_reason is not None
        delta.finish_reason, delta.stop_reason = seq.finish_reason, seq.stop_reason
        self._queue.end(seq, seq.finish_reason)


def agreeing(sampled: list[int], drafts: list[int]) -> int:
    """The number of accepted drafts. Row i's token is final if all drafts before i are accepted."""
    for count, draft in enumerate(drafts):
        if sampled[count] != draft:
            return count
    return len(drafts)


def append(seq: Sequence, tokens: list[int]) -> int:
    """Appends tokens until a stop rule applies, then sets the finish reason. Returns the number of tokens appended."""
    known, limit = seq.token_ids, seq.max_length
    if len(known) >= limit:  # max_tokens = 0: only score the prompt
        seq.finish_reason = "length"
        return 0
    for count, token in enumerate(tokens, 1):
        known.append(token)
        _stop(seq, token)
        if len(known) >= limit and seq.finish_reason is None:
            seq.finish_reason = "length"
        if seq.finish_reason is not None:
            return count
    return len(tokens)


def _stop(seq: Sequence, token: int) -> None:
    request, params = seq.request, seq.request.params
    if len(seq.token_ids) - seq.num_prompt_tokens < params.min_tokens:
        return
    if token in request.eos_token_ids and not params.ignore_eos:
        seq.finish_reason = "stop"
    elif token in params.stop_token_ids:
        seq.finish_reason, seq.stop_reason = "stop", token


def read_logprobs(result: StepResult, rows: Many[int], count: int) -> list[TokenLogprob]:
    """The rows' logprobs, each with the `count` most likely tokens."""
    assert result.logprobs is not None and result.ranks is not None
    tops: list[list[tuple[int, float]]] = [[] for _ in rows]
    if count > 0:
        assert result.top_ids is not None and result.top_logprobs is not None
        chosen = list(rows)
        ids, values = result.top_ids[chosen, :count].tolist(), result.top_logprobs[chosen, :count].tolist()
        tops = [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
    return [
        TokenLogprob(int(result.token_ids[row]), float(result.logprobs[row]), int(result.ranks[row]), top)
        for row, top in zip(rows, tops, strict=True)
    ]
