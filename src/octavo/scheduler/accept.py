"""What a step's results mean for one sequence: which sampled tokens stand, when it stops, what the logprobs were."""

from __future__ import annotations

from collections.abc import Sequence as Many

from octavo.types import Chunk, Sequence, StepResult, TokenLogprob


def agreeing(sampled: list[int], drafts: list[int]) -> int:
    """How many drafts the model confirms: row i's token is final if all drafts before i are confirmed."""
    for count, draft in enumerate(drafts):
        if sampled[count] != draft:
            return count
    return len(drafts)


def append(seq: Sequence, tokens: list[int]) -> int:
    """Appends until a stop rule holds, and sets the finish reason then. Returns how many tokens were taken."""
    known, limit = seq.token_ids, seq.max_length
    if len(known) >= limit:  # max_tokens = 0: only the prompt was to be scored
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


def wanted_logprobs(chunks: list[Chunk]) -> int:
    """`Batch.num_logprobs` for these chunks: the most that any asks for, -1 when none does."""
    most = -1
    for chunk in chunks:
        seq, params = chunk.seq, chunk.seq.request.params
        if params.logprobs is not None:
            most = max(most, params.logprobs)
        if params.prompt_logprobs is not None and seq.num_scored_tokens < seq.num_prompt_tokens - 1:
            most = max(most, params.prompt_logprobs)
    return most


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
