"""A light head on the main model's last hidden state drafts the next tokens (Medusa 2401.10774; the recurrence is
ReDrafter's, 2403.09919): low rank, over the most frequent part of the vocabulary, so that a guess takes microseconds.

    z1 = tanh(norm(h) A + E[t1])       h: the hidden state that chose t1, the newest token
    zj = tanh(z(j-1) W + E[tj])
    scores of the token after tj = B zj + b

`octavo train heads` fits it (see heads_fit).
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from octavo.errors import ConfigError
from octavo.sampling.rules import draw, uniform
from octavo.spec.draft_run import DraftSequence, spread
from octavo.spec.proposer import Guess
from octavo.types import F32, I32, ScheduledSequence, Sequence, Status, StepResult


@dataclass(slots=True)
class Heads:
    """D: the model's hidden size. r: rank. N: tokens it can draft. V: the model's vocabulary."""

    ids: I32  # [N], rising
    state: F32  # A [D, r]
    step: F32  # W [r, r]
    embed: F32  # E [N + 1, r]; the last row is shared by all other tokens
    out: F32  # B [N, r]
    bias: F32  # b [N]
    vocab_size: int

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Heads:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in cls.__slots__}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"speculative_config: heads file {path} cannot be read: {error}") from None
        return cls(**(values | {"vocab_size": int(values["vocab_size"])}))

    def check(self, hidden_size: int, vocab_size: int) -> None:
        """Raises ConfigError unless it was trained for a model of this shape."""
        rank, count = self.step.shape[0], len(self.ids)
        shapes = (self.state.shape, self.step.shape, self.embed.shape, self.out.shape, self.bias.shape)
        wanted = ((hidden_size, rank), (rank, rank), (count + 1, rank), (count, rank), (count,))
        if shapes != wanted or self.vocab_size != vocab_size or count == 0 or self.ids.max() >= vocab_size:
            raise ConfigError(
                "speculative_config: the heads were trained for another model: run `octavo train heads MODEL`"
            )

    def rows_of(self, tokens: I32) -> I32:
        """The tokens' rows in `embed`."""
        rows = np.searchsorted(self.ids, tokens).astype(np.int32)
        known = self.ids[np.minimum(rows, len(self.ids) - 1)] == tokens
        return np.where(known, rows, len(self.ids)).astype(np.int32)

    def first(self, hidden: F32, tokens: I32) -> F32:
        """z1 [S, r] from hidden [S, D] and the newest tokens [S]."""
        return np.asarray(np.tanh(normalised(hidden) @ self.state + self.embed[self.rows_of(tokens)]))

    def next(self, z: F32, tokens: I32) -> F32:
        return np.asarray(np.tanh(z @ self.step + self.embed[self.rows_of(tokens)]))

    def scores(self, z: F32) -> F32:
        """[S, N]"""
        return np.asarray(z @ self.out.T + self.bias)


def normalised(hidden: F32) -> F32:
    size = np.sqrt(np.mean(hidden * hidden, axis=-1, keepdims=True)) + np.float32(1e-6)
    return np.asarray(hidden / size, np.float32)


class HeadsDrafter:
    name = "heads"
    runs_model = True  # cheap, but not free
    wants_hidden = True

    def __init__(self, heads: Heads, min_probability: float = 0.0):
        self._heads = heads
        self._min_probability = min_probability  # of a greedy draft's tokens; see DraftRunner
        self._hidden: dict[
            Sequence, tuple[int, F32]
        ] = {}  # length of the sequence, the state that chose its last token

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        if result.hidden is None:
            return
        for seq in [seq for seq in self._hidden if seq.status is not Status.RUNNING]:
            del self._hidden[seq]
        for entry in entries:
            for seq, row in zip(
                [entry.seq, *entry.forks], range(entry.last_row, entry.last_row + 1 + len(entry.forks)), strict=True
            ):
                if entry.samples and seq.status is Status.RUNNING:
                    self._hidden[seq] = len(seq.token_ids), result.hidden[row].copy()

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [Guess(draft.drafted) for draft in self._run(sequences, limits, 0)]

    def chains(self, sequences: list[Sequence], limits: list[int], width: int) -> list[list[list[int]]]:
        return [spread(draft) for draft in self._run(sequences, limits, width)]

    def _run(self, sequences: list[Sequence], limits: list[int], width: int) -> list[DraftSequence]:
        drafts = [DraftSequence(seq, seq, [], limit) for seq, limit in zip(sequences, limits, strict=True)]
        ready = [draft for draft in drafts if draft.limit > 0 and self._knows(draft.seq)]
        if not ready:
            return drafts
        hidden = np.stack([self._hidden[draft.seq][1] for draft in ready])
        z = self._heads.first(hidden, np.array([draft.seq.token_ids[-1] for draft in ready], np.int32))
        depth = 0
        while depth < max(draft.limit for draft in ready):
            tokens = self._choose(ready, self._heads.scores(z), depth, width)
            z = self._heads.next(z, tokens)
            depth += 1
        return drafts

    def _knows(self, seq: Sequence) -> bool:
        return seq in self._hidden and self._hidden[seq][0] == len(seq.token_ids)

    def _choose(self, drafts: list[DraftSequence], scores: F32, depth: int, width: int) -> I32:
        tokens = np.empty(len(drafts), np.int32)
        for row, draft in enumerate(drafts):
            index = _pick(draft.seq, scores[row], len(draft.seq.token_ids) + depth)
            tokens[row] = self._heads.ids[index]
            if depth < draft.limit and self._unsure(draft, scores[row], index):
                draft.limit = depth
            if depth < draft.limit:
                draft.drafted.append(int(tokens[row]))
                draft.others.append(self._others(scores[row], index, width))
        return tokens

    def _unsure(self, draft: DraftSequence, scores: F32, index: int) -> bool:
        if self._min_probability == 0 or draft.seq.request.params.temperature > 0:
            return False
        return bool(self._min_probability * np.exp(scores - scores[index]).sum() > 1)

    def _others(self, scores: F32, chosen: int, width: int) -> list[int]:
        if width < 2:
            return []
        width = min(width, len(scores) - 1)
        top = np.argpartition(-scores, width)[:width]
        order = top[np.argsort(-scores[top], kind="stable")]
        return [int(self._heads.ids[index]) for index in order if index != chosen][: width - 1]


def _pick(seq: Sequence, scores: F32, position: int) -> int:
    """Chooses as the main model will: the most likely token, or drawn with the position's random number."""
    temperature = seq.request.params.temperature
    if temperature < 1e-5 or seq.sampler is None:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / np.float32(temperature))
    seeds, positions = np.array([seq.sampler.seed], np.uint64), np.array([position], np.int64)
    return draw(weights, float(uniform(seeds, positions)[0]))
