"""Decides before each step how much to draft, and with which method; nothing at all is one of the choices.

The measure is expected tokens a second. A step of S sequences with n drafted tokens takes T(S + n), which is measured
(`costs`), and gives S tokens and, for the j-th token of a draft, its probability to stand: alpha^j, with alpha measured
too (`acceptance`). Draft tokens are taken in falling order of that probability as long as the quotient rises.

Methods that run a model cost time before the step: k tokens take k passes, measured likewise. They are asked only where
(expected tokens) / (T + k passes) beats everything that is free.

What is not used is not measured. So now and then a draft is tried against the odds; what such trials cost together is
kept below PROBE_SHARE of all time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

from octavo.spec.acceptance import Acceptance
from octavo.spec.costs import ROWS, StepCosts
from octavo.spec.proposer import Drafter, Guess, Observer, room
from octavo.spec.rules import expected_tokens
from octavo.types import Batch, Sequence, Status, StepResult

GAIN = 1.02  # a choice must promise so many times the speed of none: estimates are noisy, and none is always safe
BASELINE = 3  # plain steps of a batch size to measure before any with drafts: there is nothing to compare with else
PROBE_SHARE = 0.01  # of all time
PROBE_START = 6  # one-row steps' worth of trials that may be had on credit: else short runs would never try anything
PROBE_TOKENS = 3
FILL_RATE = 0.1


@dataclass(slots=True)
class Method:
    drafter: Drafter
    acceptance: Acceptance = field(default_factory=Acceptance)
    costs: StepCosts = field(default_factory=StepCosts)  # of a token asked for, by sequences (if it runs a model)
    filled: float = 1.0  # share of the tokens asked for that it drafts: it may end a draft early


class Choice(NamedTuple):
    """One sequence's draft and where it comes from."""

    guess: Guess
    method: Method
    alpha: float


class Controller:
    """A proposer over several methods. most: the longest draft."""

    def __init__(self, drafters: list[Drafter], most: int, clock: Callable[[], float] = perf_counter):
        self._methods = [Method(drafter) for drafter in drafters]
        self._free = [method for method in self._methods if not method.drafter.runs_model]
        self._paid = [method for method in self._methods if method.drafter.runs_model]
        self._most = most
        self._clock = clock
        self._costs = StepCosts()
        self._choices: dict[Sequence, Choice] = {}  # of the step under way
        self._seen: set[Sequence] = set()
        self._allowance = 0.0  # seconds that trials may still cost
        self.wants_hidden = any(getattr(drafter, "wants_hidden", False) for drafter in drafters)

    def propose(self, sequences: list[Sequence]) -> None:
        self._choices = {}
        for seq in sequences:
            seq.drafts, seq.draft_parents = [], None
        if not sequences:
            return
        self._forget(sequences)
        if self._costs.measured(len(sequences)) < BASELINE:
            return
        rate = self._take_free(sequences)
        if self._paid:
            self._take_paid(sequences, rate)
        for seq, choice in self._choices.items():
            seq.drafts = choice.guess.tokens

    def _forget(self, sequences: list[Sequence]) -> None:
        new = [seq for seq in sequences if seq not in self._seen]
        if new:
            for seq in [seq for seq in self._seen if seq.status is Status.FINISHED]:
                self._seen.remove(seq)
                for method in self._methods:
                    method.acceptance.forget(seq)
            self._seen.update(new)

    # Guesses that cost nothing: each sequence's best one, cut where the next token no longer pays.

    def _take_free(self, sequences: list[Sequence]) -> float:
        """Chooses among the free guesses; returns the expected tokens a unit of time."""
        curve, count = self._costs.curve(), len(sequences)
        base = count / float(curve[min(count, ROWS - 1)])
        best = self._best_guesses(sequences)
        gains = sorted(_gains(best), key=lambda gain: -gain[0])[: max(0, self._costs.reach - count)]
        rate, taken, tokens = base, 0, float(count)
        for number, (gain, _) in enumerate(gains, 1):
            tokens += gain
            if tokens / float(curve[count + number]) > rate:
                rate, taken = tokens / float(curve[count + number]), number
        if rate < GAIN * base:
            rate, taken = base, self._probe_free(gains, count)
        self._cut(best, [seq for _, seq in gains[:taken]])
        return rate

    def _best_guesses(self, sequences: list[Sequence]) -> dict[Sequence, Choice]:
        limits = [min(self._most, room(seq)) for seq in sequences]
        best: dict[Sequence, Choice] = {}
        values: dict[Sequence, float] = {}
        for method in self._free:
            for seq, guess in zip(sequences, method.drafter.draft(sequences, limits), strict=True):
                if not guess.tokens:
                    continue
                alpha = method.acceptance.estimate(seq, guess.confidence)
                value = expected_tokens(alpha, len(guess.tokens))
                if value > values.get(seq, 0.0):
                    best[seq], values[seq] = Choice(guess, method, alpha), value
        return best

    def _probe_free(self, gains: list[tuple[float, Sequence]], count: int) -> int:
        """How many of the best draft tokens to try against the odds."""
        taken = min(PROBE_TOKENS, len(gains))
        return taken if taken and self._may_spend(self._extra(count, taken)) else 0

    def _extra(self, count: int, drafted: int) -> float:
        """Seconds that so many draft tokens add to a step."""
        return self._costs.seconds(count + drafted) - self._costs.seconds(count)

    def _may_spend(self, seconds: float) -> bool:
        if self._costs.unit == 0 or seconds > self._allowance:
            return False
        self._allowance -= seconds
        return True

    def _cut(self, best: dict[Sequence, Choice], kept: list[Sequence]) -> None:
        for seq in dict.fromkeys(kept):
            choice, length = best[seq], kept.count(seq)
            self._choices[seq] = choice._replace(guess=choice.guess._replace(tokens=choice.guess.tokens[:length]))

    # Guesses that cost passes of a model: all sequences draft with it, or none.

    def _take_paid(self, sequences: list[Sequence], rate: float) -> None:
        method, length, best = None, 0, GAIN * rate
        for each in self._paid:
            for k, value in self._paid_rates(each, sequences):
                if value > best:
                    method, length, best = each, k, value
        if method is not None:
            self._run(method, sequences, length)
        elif (method := self._probe_paid(sequences)) is not None:
            self._allowance -= self._run(method, sequences, PROBE_TOKENS)

    def _paid_rates(self, method: Method, sequences: list[Sequence]) -> Iterator[tuple[int, float]]:
        """(length, expected tokens a unit of time) of drafts of every length; nothing before it has been tried."""
        if method.costs.unit == 0 or self._costs.unit == 0:
            return
        count, curve = len(sequences), self._costs.curve()
        one = method.costs.seconds(count) / self._costs.unit
        alphas = [method.acceptance.estimate(seq, 0) for seq in sequences]
        for k in range(1, min(self._most, self._costs.reach // count - 1) + 1):
            length = k * method.filled
            tokens = sum(expected_tokens(alpha, length) for alpha in alphas)
            yield k, tokens / (float(curve[count + int(count * length)]) + k * one)

    def _probe_paid(self, sequences: list[Sequence]) -> Method | None:
        """The method with the fewest trials, if what a trial costs can be spared."""
        method = min(self._paid, key=lambda method: method.acceptance.trials)
        count = len(sequences)
        drafting = PROBE_TOKENS * (method.costs.seconds(count) or self._costs.seconds(count))
        verifying = self._extra(count, count * PROBE_TOKENS)
        if drafting > self._allowance - verifying:
            return None
        return method if self._may_spend(verifying) else None  # drafting is charged as measured

    def _run(self, method: Method, sequences: list[Sequence], length: int) -> float:
        """Drafts with it; returns the seconds that took."""
        limits = [min(length, room(seq)) for seq in sequences]
        start = self._clock()
        guesses = method.drafter.draft(sequences, limits)
        seconds = self._clock() - start
        asked = max(1, sum(limits))
        method.costs.observe(len(sequences), seconds / max(1, *limits))
        method.filled += FILL_RATE * (sum(len(guess.tokens) for guess in guesses) / asked - method.filled)
        for seq, guess in zip(sequences, guesses, strict=True):
            seq.drafts = []
            if guess.tokens:
                self._choices[seq] = Choice(guess, method, method.acceptance.estimate(seq, 0))
        return seconds

    def observe(self, batch: Batch, result: StepResult, seconds: float) -> None:
        drafted = 0
        for chunk in batch.chunks:
            choice = self._choices.get(chunk.seq)
            if chunk.num_drafts and choice is not None:
                drafted += chunk.num_drafts
                choice.method.acceptance.add(chunk.seq, choice.guess.confidence, chunk.accepted, chunk.num_drafts)
        if len(batch.token_ids) == len(batch.chunks) + drafted:  # no prefill in it
            if self._costs.unit == 0:
                self._allowance = PROBE_START * seconds / len(batch.chunks)
            self._costs.observe(len(batch.token_ids), seconds)
        self._allowance += PROBE_SHARE * seconds
        for method in self._methods:
            if isinstance(method.drafter, Observer):
                method.drafter.observe(batch, result, seconds)


def _gains(best: dict[Sequence, Choice]) -> Iterator[tuple[float, Sequence]]:
    """(probability to stand, its sequence) of each draft token."""
    for seq, choice in best.items():
        gain = 1.0
        for _ in choice.guess.tokens:
            gain *= choice.alpha
            yield gain, seq
