"""Beam search on top of the engine: each step runs every live beam as a request of one token.

The beams of a prompt differ only in their last tokens, so the prefix cache holds nearly all of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from octavo import unsupported
from octavo.errors import RequestError
from octavo.processing.inputs import Tokens

MAX_BEAMS = 64


@unsupported.knows(unsupported.BEAMS)
@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """Settings of a beam search, with vLLM's names.

    length_penalty: a beam's score is its logprob / (number of output tokens ** length_penalty).
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0


@dataclass(slots=True)
class BeamSearchSequence:
    """One beam. tokens: prompt and output. text: the output without its end-of-sequence token."""

    tokens: list[int]
    num_prompt_tokens: int
    cum_logprob: float = 0.0
    text: str = ""
    finish_reason: str | None = None
    cache_salt: str = ""

    @property
    def output_token_ids(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]


Candidates = list[tuple[int, float]]  # token id and logprob, best first
# Maps (beams, k) to the k most likely next tokens of each beam.
Expand = Callable[[list[BeamSearchSequence], int], list[Candidates]]


@dataclass(slots=True)
class BeamSearchOutput:
    """sequences: best first."""

    sequences: list[BeamSearchSequence]


def check_beam_params(params: BeamSearchParams) -> None:
    """Raises RequestError for a field out of range."""
    if not isinstance(params, BeamSearchParams):
        raise RequestError(f"params must be BeamSearchParams, not {type(params).__name__}", "params")
    rules = {
        "beam_width": (_whole(params.beam_width, MAX_BEAMS), f"an integer from 1 to {MAX_BEAMS}"),
        "max_tokens": (_whole(params.max_tokens), "an integer of at least 1"),
        "ignore_eos": (isinstance(params.ignore_eos, bool), "True or False"),
        "temperature": (params.temperature == 0, "0: beams are ranked by the model's own probabilities"),
        "length_penalty": (_number(params.length_penalty), "a finite number"),
    }
    for name, (holds, allowed) in rules.items():
        if not holds:
            raise RequestError(f"{name} must be {allowed}; got {getattr(params, name)!r}", name)


def _whole(value: object, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class BeamSearch:
    """The beams of one prompt. `advance` takes the candidates for each beam in `live`."""

    def __init__(self, prompt: Tokens, params: BeamSearchParams, eos_ids: tuple[int, ...]):
        self.live = [BeamSearchSequence(list(prompt.ids), len(prompt.ids), cache_salt=prompt.cache_salt)]
        self._done: list[BeamSearchSequence] = []
        self._params = params
        self._ends = frozenset(() if params.ignore_eos else eos_ids)

    def advance(self, candidates: list[Candidates]) -> None:
        """Extends the live beams by their candidates and keeps the best `beam_width` unfinished beams."""
        grown = [
            replace(beam, tokens=[*beam.tokens, token], cum_logprob=beam.cum_logprob + logprob)
            for beam, options in zip(self.live, candidates, strict=True)
            for token, logprob in options
        ]
        ended = [beam for beam in grown if beam.tokens[-1] in self._ends]
        going = [beam for beam in grown if beam.tokens[-1] not in self._ends]
        self._finish(ended, "stop")
        self.live = sorted(going, key=self.score, reverse=True)[: self._params.beam_width]
        if self.live and len(self.live[0].output_token_ids) == self._params.max_tokens:
            self._finish(self.live, "length")
            self.live = []
        elif self.live and self._settled():
            self.live = []

    def best(self) -> list[BeamSearchSequence]:
        return sorted(self._done, key=self.score, reverse=True)[: self._params.beam_width]

    def score(self, beam: BeamSearchSequence) -> float:
        return self._score(beam.cum_logprob, len(beam.output_token_ids))

    def _score(self, logprob: float, length: int) -> float:
        return logprob / math.pow(length, self._params.length_penalty)

    def _finish(self, beams: list[BeamSearchSequence], reason: str) -> None:
        for beam in beams:
            beam.finish_reason = reason
        self._done += beams
        self._done = self.best()

    def _settled(self) -> bool:
        """Whether no live beam can beat the worst finished beam: logprobs only fall, and lengths are bounded."""
        if len(self._done) < self._params.beam_width:
            return False
        worst = self.score(self._done[-1])
        lengths = (len(self.live[0].output_token_ids) + 1, self._params.max_tokens)
        return all(max(self._score(beam.cum_logprob, length) for length in lengths) <= worst for beam in self.live)


def search(
    prompts: list[Tokens], params: BeamSearchParams, eos_ids: tuple[int, ...], expand: Expand
) -> list[list[BeamSearchSequence]]:
    """The best beams of each prompt, best first. All prompts advance together, so their beams share batches."""
    searches = [BeamSearch(prompt, params, eos_ids) for prompt in prompts]
    while beams := [beam for each in searches for beam in each.live]:
        options = iter(expand(beams, 2 * params.beam_width))
        for each in searches:
            each.advance([next(options) for _ in each.live])
    return [each.best() for each in searches]
