"""Decides before each step how much to draft and with which method. Not drafting is one of the choices.

The controller maximises expected tokens a second. A step of S sequences with n draft tokens takes T(S + n), which is
measured (`costs`). It yields S tokens plus the acceptance probability of each draft token (`blend`), from measured
shares (`acceptance`). Draft tokens of all sequences are taken in falling order of probability while the rate rises.

Guesses without a model pass are nearly free. They are made at every step, verified or not, and compared with the real
tokens, so their acceptance is known without trials. Unused free drafts are paused long enough to keep their cost below
VAIN_SHARE of the time. Methods that run a model cost time before the step: k tokens take k passes, also measured.
They draft only if (expected tokens) / (T + k passes) beats every free choice.

An unused method is not measured. So a draft is occasionally tried although it looks too slow. These trials together
cost less than PROBE_SHARE of the time.
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

GAIN = 1.02  # required speed-up over not drafting: estimates are noisy, and not drafting is always safe
BASELINE = 3  # plain steps measured for a batch size before drafting, as the baseline to compare with
PROBE_SHARE = 0.01  # largest share of the time for trials
VAIN_SHARE = 0.01  # largest share of the time for free guesses that are not drafted
MOST_REST = 16  # steps: the longest pause, so repetition in the text is noticed by then
PROBE_START = 6  # trial time available at the start, in one-row steps: otherwise short runs would never try a method
PROBE_TOKENS = 3
FILL_RATE = 0.1


@dataclass(slots=True)
class Method:
    drafter: Drafter
    acceptance: Acceptance = field(default_factory=Acceptance)
    # seconds a requested token, by number of sequences (if it runs a model)
    costs: StepCosts = field(default_factory=StepCosts)
    filled: float = 1.0  # share of the requested tokens that it drafts: it may end a draft early


Claims = dict[Sequence, list[tuple[Method, Guess]]]  # the guesses for each sequence


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
        self._claims: Claims = {}  # for the current step
        self._known: dict[Sequence, int] = {}  # token count of each of these sequences before the step
        self._seen: set[Sequence] = set()
        self._allowance = 0.0  # seconds that trials may still cost
        self._resting = 0  # remaining steps without free guesses
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

    # Free guesses, cut where the next token no longer pays.

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
        """Pauses free guesses after `seconds` of unused ones, so that their share of the time stays small.

        With many sequences of a small model, guessing can cost more time than it saves."""
        if step := self._costs.seconds(count):
            self._resting = min(MOST_REST, int(seconds / (VAIN_SHARE * step)))

    def _choose(self, sequences: list[Sequence], blends: dict[Sequence, Blend]) -> tuple[float, dict[Sequence, Guess]]:
        """(expected tokens per unit of time, the drafts that yield them)."""
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
        """Draft tokens of a trial when only the measured cost of rows argues against drafting.

        That cost may have been measured at a bad moment."""
        taken = min(PROBE_TOKENS, len(offers))
        gained = sum(odds for odds, _, _ in offers[:taken]) / count
        if gained < PRIOR_SLOPE * taken / (1 + PRIOR_SLOPE * (count - 1)):
            return 0
        return taken if self._may_spend(self._extra(count, taken)) else 0

    def _extra(self, count: int, drafted: int) -> float:
        """Seconds that these draft tokens add to a step."""
        return self._costs.seconds(count + drafted) - self._costs.seconds(count)

    def _may_spend(self, seconds: float) -> bool:
        if self._costs.unit == 0 or seconds > self._allowance:
            return False
        self._allowance -= seconds
        return True

    # Guesses that cost model passes: all sequences draft with the model, or none.

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
        """(length, expected tokens per unit of time) for every draft length; empty before the first trial."""
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
        """The method with the fewest trials, if the allowance covers one."""
        method = min(self._paid, key=lambda method: method.acceptance.trials)
        count = len(sequences)
        drafting = PROBE_TOKENS * (method.costs.seconds(count) or self._costs.seconds(count))
        verifying = self._extra(count, count * PROBE_TOKENS)
        if drafting > self._allowance - verifying:
            return None
        return method if self._may_spend(verifying) else None  # drafting is charged as measured

    def _run(self, method: Method, sequences: list[Sequence], length: int) -> tuple[dict[Sequence, Guess], float]:
        """Runs the method. Returns (its drafts, the seconds they took)."""
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

    # Learning from the step's result.

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
        """Compares every guess, verified or not, with the real tokens."""
        came = seq.token_ids[self._known.get(seq, len(seq.token_ids)) :]
        for method, guess in self._claims.get(seq, ()):
            tried = min(len(came), len(guess.tokens))
            stood = next((i for i in range(tried) if came[i] != guess.tokens[i]), tried)
            method.acceptance.add(seq, guess.confidence, stood, tried)


def _alpha(method: Method, seq: Sequence, guess: Guess) -> float:
    return method.acceptance.estimate(seq, guess.confidence)


def _offers(blends: dict[Sequence, Blend]) -> Iterator[tuple[float, Sequence, int]]:
    """(acceptance probability, sequence, node) of each draft token."""
    for seq, each in blends.items():
        for node, odds in enumerate(each.odds):
            yield odds, seq, node
