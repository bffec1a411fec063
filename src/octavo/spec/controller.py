"""Decides before each step how much to draft, and with which method; nothing at all is one of the choices.

The measure is expected tokens a second. A step of S sequences with n drafted tokens takes T(S + n), which is measured
(`costs`), and gives S tokens and, for each drafted one, its odds to stand (`blend`), from shares that are measured too
(`acceptance`). Draft tokens of all sequences are taken in falling order of these odds as long as the quotient rises.

Guesses that cost next to nothing are made at every step, verified or not, and held against what came: so what they are
worth is known without trying. Where they come to nothing they rest for so many steps that they take VAIN_SHARE of all
time at most. Methods that run a model cost time before the step: k tokens take k passes, measured likewise.
They are asked only where (expected tokens) / (T + k passes) beats everything that is free.

What is not used is not measured. So now and then a draft is tried against the odds; what such trials cost together is
kept below PROBE_SHARE of all time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

from octavo.spec.acceptance import Acceptance
from octavo.spec.blend import Blend, blend
from octavo.spec.costs import PRIOR_SLOPE, ROWS, StepCosts
from octavo.spec.proposer import Drafter, Guess, observers, room
from octavo.spec.speedup import expected_tokens
from octavo.types import ScheduledSequence, Sequence, Status, StepResult

GAIN = 1.02  # a choice must promise so many times the speed of none: estimates are noisy, and none is always safe
BASELINE = 3  # plain steps of a batch size to measure before any with drafts: there is nothing to compare with else
PROBE_SHARE = 0.01  # of all time
VAIN_SHARE = 0.01  # of all time may go to free guesses of which none is drafted
MOST_REST = 16  # steps: text that repeats itself is noticed no later than that
PROBE_START = 6  # one-row steps' worth of trials that may be had on credit: else short runs would never try anything
PROBE_TOKENS = 3
FILL_RATE = 0.1


@dataclass(slots=True)
class Method:
    drafter: Drafter
    acceptance: Acceptance = field(default_factory=Acceptance)
    costs: StepCosts = field(default_factory=StepCosts)  # of a token asked for, by sequences (if it runs a model)
    filled: float = 1.0  # share of the tokens asked for that it drafts: it may end a draft early


Claims = dict[Sequence, list[tuple[Method, Guess]]]  # what was guessed about each sequence


class Controller:
    """A proposer over several methods. most: the longest draft. trees: whether the backend verifies draft trees."""

    def __init__(
        self,
        drafters: list[Drafter],
        most: int,
        trees: bool = False,
        clock: Callable[[], float] = perf_counter,
    ):
        self._methods = [Method(drafter) for drafter in drafters]
        self._free = [method for method in self._methods if not method.drafter.runs_model]
        self._paid = [method for method in self._methods if method.drafter.runs_model]
        self._most = most
        self._trees = trees
        self._clock = clock
        self._costs = StepCosts()
        self._claims: Claims = {}  # about the step under way
        self._known: dict[Sequence, int] = {}  # tokens that each of these sequences had
        self._seen: set[Sequence] = set()
        self._allowance = 0.0  # seconds that trials may still cost
        self._resting = 0  # steps without free guesses that are still to come
        self._observers = observers(drafters)
        self.wants_hidden = any(observer.wants_hidden for observer in self._observers)

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.drafts, seq.draft_parents = [], None
        self._known = {seq: len(seq.token_ids) for seq in sequences}
        self._claims = {seq: [] for seq in sequences}
        if not sequences:
            return
        self._forget(sequences)
        began, rests = self._clock(), self._resting > 0
        self._resting -= rests
        blends = {} if rests else self._guess(sequences)
        if self._costs.measured(len(sequences)) < BASELINE:
            return
        if rests and not self._paid:
            return
        rate, drafts = self._choose(sequences, blends)
        if not (rests or drafts):
            self._rest(self._clock() - began, len(sequences))
        if self._paid:
            drafts |= self._ask_models(sequences, rate)
        for seq in sequences:
            guess = drafts.get(seq)
            seq.drafts, seq.draft_parents = (guess.tokens, guess.parents) if guess else ([], None)

    def _forget(self, sequences: list[Sequence]) -> None:
        new = [seq for seq in sequences if seq not in self._seen]
        if new:
            for seq in [seq for seq in self._seen if seq.status is Status.FINISHED]:
                self._seen.remove(seq)
                for method in self._methods:
                    method.acceptance.forget(seq)
            self._seen.update(new)

    # Guesses that cost nothing, cut where the next token no longer pays.

    def _guess(self, sequences: list[Sequence]) -> dict[Sequence, Blend]:
        limits = [min(self._most, room(seq)) for seq in sequences]
        for method in self._free:
            for seq, guess in zip(sequences, method.drafter.draft(sequences, limits), strict=True):
                if guess.tokens:
                    self._claims[seq].append((method, guess))
        return {
            seq: blend([(guess, _alpha(method, seq, guess)) for method, guess in claims], self._trees)
            for seq, claims in self._claims.items()
            if claims
        }

    def _rest(self, seconds: float, count: int) -> None:
        """Guesses were made in vain, in so many seconds: none for as many steps as make that a small share of all time.
        Many sequences of a small model take longer to guess for than guesses are worth, where they do not pay."""
        if step := self._costs.seconds(count):
            self._resting = min(MOST_REST, int(seconds / (VAIN_SHARE * step)))

    def _choose(self, sequences: list[Sequence], blends: dict[Sequence, Blend]) -> tuple[float, dict[Sequence, Guess]]:
        """(expected tokens a unit of time, the drafts that give them)."""
        curve, count = self._costs.curve(), len(sequences)
        base = count / float(curve[min(count, ROWS - 1)])
        offers = sorted(_offers(blends), key=lambda offer: -offer[0])[: max(0, self._costs.reach - count)]
        rate, taken, tokens = base, 0, float(count)
        for number, (odds, _, _) in enumerate(offers, 1):
            tokens += odds
            if tokens / float(curve[count + number]) > rate:
                rate, taken = tokens / float(curve[count + number]), number
        if rate < GAIN * base:
            rate, taken = base, self._try_again(offers, count)
        kept: dict[Sequence, list[int]] = {}
        for _, seq, node in offers[:taken]:
            kept.setdefault(seq, []).append(node)
        return rate, {seq: blends[seq].cut(nodes) for seq, nodes in kept.items()}

    def _try_again(self, offers: list[tuple[float, Sequence, int]], count: int) -> int:
        """How many tokens to draft against the odds: some, where only the cost of rows, which may have been measured
        at a bad moment, speaks against them."""
        taken = min(PROBE_TOKENS, len(offers))
        gained = sum(odds for odds, _, _ in offers[:taken]) / count
        if gained < PRIOR_SLOPE * taken / (1 + PRIOR_SLOPE * (count - 1)):
            return 0
        return taken if self._may_spend(self._extra(count, taken)) else 0

    def _extra(self, count: int, drafted: int) -> float:
        """Seconds that so many draft tokens add to a step."""
        return self._costs.seconds(count + drafted) - self._costs.seconds(count)

    def _may_spend(self, seconds: float) -> bool:
        if self._costs.unit == 0 or seconds > self._allowance:
            return False
        self._allowance -= seconds
        return True

    # Guesses that cost passes of a model: all sequences draft with it, or none.

    def _ask_models(self, sequences: list[Sequence], rate: float) -> dict[Sequence, Guess]:
        method, length, best = None, 0, GAIN * rate
        for each in self._paid:
            for k, value in self._rates(each, sequences):
                if value > best:
                    method, length, best = each, k, value
        if method is not None:
            return self._run(method, sequences, length)[0]
        if (method := self._trial(sequences)) is None:
            return {}
        drafts, seconds = self._run(method, sequences, PROBE_TOKENS)
        self._allowance -= seconds
        return drafts

    def _rates(self, method: Method, sequences: list[Sequence]) -> Iterator[tuple[int, float]]:
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

    def _trial(self, sequences: list[Sequence]) -> Method | None:
        """The method with the fewest trials, if what one costs can be spared."""
        method = min(self._paid, key=lambda method: method.acceptance.trials)
        count = len(sequences)
        drafting = PROBE_TOKENS * (method.costs.seconds(count) or self._costs.seconds(count))
        verifying = self._extra(count, count * PROBE_TOKENS)
        if drafting > self._allowance - verifying:
            return None
        return method if self._may_spend(verifying) else None  # drafting is charged as measured

    def _run(self, method: Method, sequences: list[Sequence], length: int) -> tuple[dict[Sequence, Guess], float]:
        """(its drafts, the seconds they took)."""
        limits = [min(length, room(seq)) for seq in sequences]
        start = self._clock()
        guesses = method.drafter.draft(sequences, limits)
        seconds = self._clock() - start
        method.costs.observe(len(sequences), seconds / max(1, *limits))
        drafted = sum(len(guess.tokens) for guess in guesses)
        method.filled += FILL_RATE * (drafted / max(1, sum(limits)) - method.filled)
        drafts = {seq: guess for seq, guess in zip(sequences, guesses, strict=True) if guess.tokens}
        for seq, guess in drafts.items():
            self._claims[seq].append((method, guess))
        return drafts, seconds

    # What came of it.

    def observe(self, entries: list[ScheduledSequence], result: StepResult, seconds: float) -> None:
        for entry in entries:
            self._judge(entry.seq)
        if all([entry.num_tokens == 1 + entry.num_drafts for entry in entries]):  # no prefill in it
            if self._costs.unit == 0:
                self._allowance = PROBE_START * seconds / len(entries)
            self._costs.observe(sum([entry.num_tokens for entry in entries]), seconds)
        self._allowance += PROBE_SHARE * seconds
        for observer in self._observers:
            observer.observe(entries, result, seconds)

    def _judge(self, seq: Sequence) -> None:
        """Holds every guess, verified or not, against the tokens that came."""
        came = seq.token_ids[self._known.get(seq, len(seq.token_ids)) :]
        for method, guess in self._claims.get(seq, ()):
            tried = min(len(came), len(guess.tokens))
            stood = next((i for i in range(tried) if came[i] != guess.tokens[i]), tried)
            method.acceptance.add(seq, guess.confidence, stood, tried)


def _alpha(method: Method, seq: Sequence, guess: Guess) -> float:
    return method.acceptance.estimate(seq, guess.confidence)


def _offers(blends: dict[Sequence, Blend]) -> Iterator[tuple[float, Sequence, int]]:
    """(odds to stand, sequence, node) of each draft token."""
    for seq, each in blends.items():
        for node, odds in enumerate(each.odds):
            yield odds, seq, node
