"""The sampler's state of a sequence between steps, so a step processes only what changed, not the whole history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from octavo.errors import RequestError
from octavo.sampling.rules import pack
from octavo.sampling_params import SamplingParams
from octavo.types import F32, I32, U32, Matcher, Sequence

Entries = tuple[I32, F32]  # token ids and the values added to their logits

GREEDY_BELOW = 1e-5  # a temperature under this would overflow float32 logits; it means greedy (as in vLLM)
NEVER = 1 << 62  # a position no sequence reaches
SEED_STEP = 0xD1B54A32D192ED03  # odd: keeps the seeds of a request's n sequences distinct
SEED_MASK = (1 << 64) - 1


class Settings:
    """The parameters of a row that never change while the sequence lives. Compared by identity, to be a cache key."""

    __slots__ = ("floats", "mask", "seed", "top_k")

    def __init__(self, params: SamplingParams, seed: int, vocab_size: int):
        temperature = params.temperature if params.temperature >= GREEDY_BELOW else 0.0
        self.floats = (
            temperature,
            params.top_p,
            params.min_p,
            params.typical_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        self.top_k = max(0, min(params.top_k, vocab_size))
        self.seed = seed & SEED_MASK
        allowed = params.allowed_token_ids
        self.mask: U32 | None = None if allowed is None else pack(np.asarray(allowed, np.int32), vocab_size)


class History:
    """The distinct tokens of a sequence and how often each is in its output, counted as the sequence grows."""

    __slots__ = ("_counts", "_index", "_length", "_prompt", "_tokens")

    def __init__(self, seq: Sequence, with_prompt: bool):
        self._prompt = seq.token_ids[: seq.num_prompt_tokens] if with_prompt else []
        self._reset(seq.num_prompt_tokens)

    def _reset(self, length: int) -> None:
        distinct = dict.fromkeys(self._prompt)
        self._index = {token: slot for slot, token in enumerate(distinct)}
        self._tokens = np.zeros(2 * len(distinct) + 64, np.int32)
        self._tokens[: len(distinct)] = list(distinct)
        self._counts = np.zeros_like(self._tokens)
        self._length = length  # tokens of the sequence, prompt included, that are counted

    def at(self, seq: Sequence, position: int) -> tuple[I32, I32]:
        """(tokens, counts), copied, of the `position` tokens before it: the known ones, then drafts."""
        known = min(position, len(seq.token_ids))
        if known < self._length:
            self._reset(seq.num_prompt_tokens)
        for token in seq.token_ids[self._length : known]:
            self._count(token)
        self._length = known
        size = len(self._index)
        tokens, counts = self._tokens[:size].copy(), self._counts[:size].copy()
        if position == known:
            return tokens, counts
        return self._add_drafts(tokens, counts, seq.drafts[: position - known])

    def _count(self, token: int) -> None:
        slot = self._index.setdefault(token, len(self._index))
        if slot == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[slot] = token
        self._counts[slot] += 1

    def _add_drafts(self, tokens: I32, counts: I32, drafts: list[int]) -> tuple[I32, I32]:
        fresh = Counter(token for token in drafts if token not in self._index)
        counts = np.concatenate([counts, np.fromiter(fresh.values(), np.int32)])
        np.add.at(counts, [self._index[token] for token in drafts if token in self._index], 1)
        return np.concatenate([tokens, np.fromiter(fresh, np.int32)]), counts


class Sampler:
    """A sequence's settings, and the edits of its logits that depend on the position.

    The row of a position in [first, plain_from) needs work; every other row is plain greedy: positions before `first`
    lie in the prompt, where tokens are scored and not chosen. From `steady_from` on there are no edits: settings and
    position say everything.
    """

    __slots__ = (
        "_bad_words",
        "_bias",
        "_bias_and_ends",
        "_ends_until",
        "_reach",
        "first",
        "history",
        "matcher",
        "plain_from",
        "settings",
        "steady_from",
    )

    def __init__(self, seq: Sequence, vocab_size: int):
        request, params = seq.request, seq.request.params
        self.settings = Settings(params, request.seed + seq.index * SEED_STEP, vocab_size)
        self.first = seq.num_prompt_tokens
        ends = (*(() if params.ignore_eos else request.eos_token_ids), *params.stop_token_ids)
        self._ends_until = self.first + params.min_tokens if ends else self.first
        self._bias = _entries(params.logit_bias.items())
        self._bias_and_ends = _entries((*params.logit_bias.items(), *_bans(ends)))
        self._bad_words = request.bad_word_ids
        self._reach = max(map(len, self._bad_words), default=1) - 1
        repetition = params.repetition_penalty != 1
        penalised = repetition or params.presence_penalty != 0 or params.frequency_penalty != 0
        self.history = History(seq, with_prompt=repetition) if penalised else None
        self.matcher: Matcher | None = None if request.grammar is None else request.grammar.matcher()
        edited = penalised or params.logit_bias or self._bad_words or self.matcher
        self.steady_from = NEVER if edited else self._ends_until
        drawn = self.settings.floats[0] > 0 or self.settings.mask is not None
        self.plain_from = NEVER if drawn else self.steady_from

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def needs_tokens(self) -> bool:
        return bool(self.history is not None or self.matcher is not None or self._bad_words)

    def mask(self, seq: Sequence, position: int) -> U32 | None:
        """The tokens allowed at this position, if that changes between positions; otherwise None.

        Where a grammar allows only the end, allowed_token_ids gives way.
        """
        if self.matcher is None:
            return None
        mask = self.matcher.mask(seq, position)
        return mask if self.settings.mask is None or self.matcher.stopped else mask & self.settings.mask

    def bias(self, seq: Sequence, position: int) -> Entries:
        """logit_bias, plus bans: end tokens before `min_tokens`, and tokens that would complete a bad word.

        Call it after `mask`: where a grammar allows only the end, min_tokens is ignored.
        """
        early = position < self._ends_until and not (self.matcher and self.matcher.stopped)
        entries = self._bias_and_ends if early else self._bias
        if self._bad_words and (banned := self._completions(seq, position)):
            tokens, values = _entries(_bans(banned))
            return np.concatenate([entries[0], tokens]), np.concatenate([entries[1], values])
        return entries

    def check(self, seq: Sequence, position: int, mask: U32 | None, bias: Entries) -> None:
        """Raises RequestError if the grammar allows no token but those that bad_words and allowed_token_ids forbid.

        A draft may lead to such a place; it is not accepted, so only the sequence's next position counts.
        """
        limited = self._bad_words or self.settings.mask is not None
        if mask is None or not limited or position > len(seq.token_ids):
            return
        tokens, values = bias
        banned = tokens[values == -np.inf]
        left = mask.copy()
        np.bitwise_and.at(left, banned >> 5, ~(np.uint32(1) << (banned & 31).astype(np.uint32)))
        if not left.any():
            raise RequestError(
                "structured_outputs: bad_words or allowed_token_ids forbid every token that the grammar allows next",
                "structured_outputs",
            )

    def _completions(self, seq: Sequence, position: int) -> list[int]:
        """Last tokens of those bad words whose other tokens end the output so far (the prompt does not count)."""
        known = len(seq.token_ids)
        start = max(self.first, position - self._reach)
        tail = seq.token_ids[start:position] + seq.drafts[max(0, start - known) : max(0, position - known)]
        return [word[-1] for word in self._bad_words if len(word) == 1 or tuple(tail[1 - len(word) :]) == word[:-1]]


def _bans(tokens: Iterable[int]) -> list[tuple[int, float]]:
    return [(token, -np.inf) for token in tokens]


def _entries(pairs: Iterable[tuple[int, float]]) -> Entries:
    table = list(pairs)
    tokens = np.array([token for token, _ in table], np.int32)
    return tokens, np.array([value for _, value in table], np.float32)
