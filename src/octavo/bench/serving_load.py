"""The load of `octavo bench serving`: who asks what, and when. Made from a seed alone, so every server gets the same.

Lengths of prompts are in words: the one unit that means the same to every server, whatever its tokenizer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from octavo.errors import ConfigError

# Ordinary words of one token each in most vocabularies.
WORDS = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy moment
air teacher force education foot boy age policy music market sense nation plan college interest death experience effect
use class control care field development role effort rate heart drug show leader light voice wife police mind church
report action price need difference picture table player paper land space ground form support event official matter
center couple project activity star court oil situation cost industry figure street image phone data food land river
""".split()  # noqa: SIM905  # as a list it would be 200 lines


@dataclass(frozen=True, slots=True)
class Load:
    """rate: requests a second, arriving at random (Poisson); None: `concurrency` clients, each waiting for its answer.

    spread: standard deviation of the two lengths over their mean (log-normal); 0: all alike.
    turns: of a conversation; each request but the first has what was said before in front of it.
    """

    requests: int = 100
    rate: float | None = None
    concurrency: int = 8
    prompt_words: int = 60
    output_tokens: int = 64
    spread: float = 0.0
    prefix_words: int = 0
    prefix_share: float = 1.0
    prefixes: int = 1
    turns: int = 1
    think: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """pause: seconds between the answer before and this request."""

    text: str
    max_tokens: int
    pause: float


@dataclass(frozen=True, slots=True)
class SimulatedChat:
    """start: seconds since the run's begin at which the first request is due; 0 in a closed loop."""

    number: int
    start: float
    prefix: str | None
    turns: tuple[ChatTurn, ...]


def check_load(load: Load) -> Load:
    """The same load. Raises ConfigError for one that makes no sense."""
    for name in ("requests", "concurrency", "prompt_words", "output_tokens", "prefixes", "turns"):
        if getattr(load, name) < 1:
            raise ConfigError(f"{name} must be at least 1; got {getattr(load, name)}")
    for name in ("prefix_words", "spread", "think"):
        if getattr(load, name) < 0:
            raise ConfigError(f"{name} must not be negative; got {getattr(load, name)}")
    if load.rate is not None and not 0 < load.rate < math.inf:
        raise ConfigError(f"rate must be above 0 requests a second; got {load.rate}")
    if not 0 <= load.prefix_share <= 1:
        raise ConfigError(f"prefix_share must be from 0 to 1; got {load.prefix_share}")
    return load


def simulated_chats(load: Load) -> Iterator[SimulatedChat]:
    """Until there are `requests` turns in all: the last conversation may be a short one."""
    rng = random.Random(load.seed)
    # Of an own generator each: another number of words then leaves the arrivals as they are.
    arrivals, prefixes = random.Random(rng.random()), random.Random(rng.random())
    shared = [words(prefixes, load.prefix_words) for _ in range(load.prefixes)]
    start, left, number = 0.0, load.requests, 0
    while left > 0:
        turns = tuple(_turn(rng, load, index) for index in range(min(load.turns, left)))
        prefix = rng.choice(shared) if load.prefix_words and rng.random() < load.prefix_share else None
        yield SimulatedChat(number, start, prefix, turns)
        if load.rate is not None:  # of requests, of which a conversation brings `turns`
            start += arrivals.expovariate(load.rate / load.turns)
        left -= len(turns)
        number += 1


def _turn(rng: random.Random, load: Load, index: int) -> ChatTurn:
    text = words(rng, _length(rng, load.prompt_words, load.spread))
    pause = rng.expovariate(1 / load.think) if index and load.think else 0.0
    return ChatTurn(text, _length(rng, load.output_tokens, load.spread), pause)


def _length(rng: random.Random, mean: int, spread: float) -> int:
    """Log-normal with that mean, and with `spread` times it as its standard deviation."""
    variance = math.log1p(spread**2)
    return max(1, round(mean * rng.lognormvariate(-variance / 2, math.sqrt(variance)))) if spread else mean


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def warmup(load: Load, number: int) -> SimulatedChat:
    """A request before the measured ones, of words that none of them has: it warms the server, not its prefix cache."""
    rng = random.Random(-1 - number)
    return SimulatedChat(
        -1 - number, 0.0, None, (ChatTurn(words(rng, load.prompt_words), min(load.output_tokens, 16), 0.0),)
    )
