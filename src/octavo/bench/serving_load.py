"""The load of `octavo bench serving`: the requests and their times.

It depends only on the seed, so every server gets the same load. Prompt lengths are in words, because a word means the
same to every server, whatever its tokenizer.
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
    """rate: requests per second, with random arrivals (Poisson). None: `concurrency` clients that wait for each answer.

    spread: standard deviation of both lengths over their mean (log-normal); 0 makes all lengths equal.
    turns: turns per chat; each request repeats the earlier turns and answers. think: mean pause in seconds.
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
    """pause: seconds from the previous answer to this request."""

    text: str
    max_tokens: int
    pause: float


@dataclass(frozen=True, slots=True)
class SimulatedChat:
    """start: when the first request is due, in seconds since the start of the run; 0 in a closed loop."""

    number: int
    start: float
    prefix: str | None
    turns: tuple[ChatTurn, ...]


def check_load(load: Load) -> Load:
    """Returns the same load. Raises ConfigError for a value out of range."""
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
    """Yields chats until they have `requests` turns in all; the last chat may have fewer turns."""
    rng = random.Random(load.seed)
    # Separate generators, so that a change of prompt lengths does not change the arrivals.
    arrivals, prefixes = random.Random(rng.random()), random.Random(rng.random())
    shared = [words(prefixes, load.prefix_words) for _ in range(load.prefixes)]
    start, left, number = 0.0, load.requests, 0
    while left > 0:
        turns = tuple(_turn(rng, load, index) for index in range(min(load.turns, left)))
        prefix = rng.choice(shared) if load.prefix_words and rng.random() < load.prefix_share else None
        yield SimulatedChat(number, start, prefix, turns)
        if load.rate is not None:  # the rate counts requests, and a chat has `turns` of them
            start += arrivals.expovariate(load.rate / load.turns)
        left -= len(turns)
        number += 1


def _turn(rng: random.Random, load: Load, index: int) -> ChatTurn:
    text = words(rng, _length(rng, load.prompt_words, load.spread))
    pause = rng.expovariate(1 / load.think) if index and load.think else 0.0
    return ChatTurn(text, _length(rng, load.output_tokens, load.spread), pause)


def _length(rng: random.Random, mean: int, spread: float) -> int:
    """Draws a log-normal length with standard deviation `spread` * mean."""
    variance = math.log1p(spread**2)
    return max(1, round(mean * rng.lognormvariate(-variance / 2, math.sqrt(variance)))) if spread else mean


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def warmup(load: Load, number: int) -> SimulatedChat:
    """A chat to send before the measured ones. Its prompt differs from theirs, so it does not fill the prefix cache."""
    rng = random.Random(-1 - number)
    return SimulatedChat(
        -1 - number, 0.0, None, (ChatTurn(words(rng, load.prompt_words), min(load.output_tokens, 16), 0.0),)
    )
