"""Eviction inside a sequence: which of its earlier tokens a token still sees, so that a long stream needs few blocks.

sink_recent (StreamingLLM, 2309.17453): token t sees the first `sinks` tokens and the recent ones, from the start of the
16 tokens that lie `window` tokens before its own 16. The rule depends on positions alone, so it holds inside a prefill
chunk too, and chunk size changes no bit. Blocks that no later token can see leave the table.

Recent keys keep their true positions: the score of a rotated query and key depends on their distance only. The sinks
would be ever further away, so they are seen by a second query, rotated to position min(t, sinks + window).

snapkv (2404.14469): when the prompt is complete, each KV head keeps the keys that the prompt's last queries attend to
most (`kv.snapkv`). They move into private blocks; positions go on from the prompt's length.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.config import EngineConfig
from octavo.types import I32, I64, Eviction, Sequence, SinkRecent, SnapKV

UNIT = 16  # tokens by which the recent ones move on; divides or equals every block size of the CPU's cache
MOST_SINKS = 512  # a split of the native attention: the sinks are one
MOST_WINDOW = 1 << 20
MOST_QUERIES = 64  # of snapkv's window
POLICIES: dict[str, type[Eviction]] = {"sink_recent": SinkRecent, "snapkv": SnapKV}
FORMS = "none, sink_recent(sinks=16, window=1024) or snapkv(budget=0.5, window=32, pool=7)"


class Limit(NamedTuple):
    least: float
    most: float
    multiple: int = 1
    whole: bool = True


LIMITS = {
    "sink_recent": {"sinks": Limit(UNIT, MOST_SINKS, UNIT), "window": Limit(UNIT, MOST_WINDOW, UNIT)},
    "snapkv": {"budget": Limit(0.01, MOST_WINDOW, whole=False), "window": Limit(1, MOST_QUERIES), "pool": Limit(1, 63)},
}


@lru_cache(maxsize=256)
def parse(text: str | None) -> Eviction | None:
    """The policy that a setting such as "sink_recent(16, 1024)" names; None for None and "none".

    Raises ValueError, which says what is allowed.
    """
    if text is None or text.strip() == "none":
        return None
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    if match is None or match[1] not in POLICIES:
        raise ValueError(f"must be {FORMS}; got {text!r}")
    given, named = _arguments(match[2] or "")
    try:
        policy = POLICIES[match[1]](*given, **named)  # type: ignore[arg-type]  # `_check` sees to the types
    except TypeError:
        raise ValueError(f"must be {FORMS}; got {text!r}") from None
    _check(match[1], policy)
    return policy


def _arguments(text: str) -> tuple[list[float], dict[str, float]]:
    given: list[float] = []
    named: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        try:
            number = int(value) if value.isdigit() else float(value)
        except ValueError:
            raise ValueError(f"must be {FORMS}; got {part!r}, which is not a number") from None
        if equals:
            named[name] = number
        else:
            given.append(number)
    return given, named


def _check(name: str, policy: Eviction) -> None:
    for field, (least, most, multiple, whole) in LIMITS[name].items():
        value = getattr(policy, field)
        if not least <= value <= most or (whole and not isinstance(value, int)) or value % multiple * whole:
            kind = "a number" if not whole else f"a multiple of {multiple}" if multiple > 1 else "an integer"
            raise ValueError(f"{field} of {name} must be {kind} from {least} to {most}; got {value}")
    if isinstance(policy, SnapKV) and policy.pool % 2 == 0:
        raise ValueError(f"pool of snapkv must be odd; got {policy.pool}")
    if isinstance(policy, SnapKV) and policy.budget > 1 and not isinstance(policy.budget, int):
        raise ValueError(f"budget of snapkv must be an integer above 1, or a share up to 1; got {policy.budget}")


def kept_tokens(policy: SnapKV, prompt: int) -> int:
    """Tokens of a prompt that snapkv keeps; all of them if the budget holds them."""
    share = isinstance(policy.budget, float) and policy.budget <= 1
    budget = math.ceil(policy.budget * prompt) if share else int(policy.budget)
    return min(prompt, max(budget, policy.window))


def refusal(policy: Eviction, config: EngineConfig, supported: tuple[str, ...]) -> str | None:
    """Why this engine cannot evict so; None if it can. supported: by its device."""
    if config.kv_cache != "paged":
        return f"kv_eviction needs kv_cache='paged', not {config.kv_cache!r}"
    if isinstance(policy, SnapKV) and policy.window > config.max_num_batched_tokens:
        most = config.max_num_batched_tokens
        return f"window of snapkv must be at most max_num_batched_tokens, {most}; got {policy.window}"
    name = next(name for name, kind in POLICIES.items() if isinstance(policy, kind))
    if name not in supported:
        has = ", ".join(supported) or "none"
        return f"kv_eviction {name} is not available on this backend with this model and kv_cache_dtype: it has {has}"
    return None


def first_recent(position: int, window: int) -> int:
    """The first of the recent tokens that the token at `position` sees."""
    return max(0, position // UNIT - window // UNIT) * UNIT


def hidden_blocks(policy: Eviction | None, position: int, block_size: int) -> range:
    """Blocks of the whole sequence that neither the token at `position` nor a later one sees."""
    if not isinstance(policy, SinkRecent):
        return range(0)
    sinks = -(-policy.sinks // block_size)
    return range(sinks, max(sinks, first_recent(position, policy.window) // block_size))


def most_blocks(policy: SinkRecent, block_size: int) -> int:
    """Blocks that suffice to go on for ever, a token at a time: sinks, recent tokens, and the tokens that are hidden
    already but share a block with them."""
    return -(-policy.sinks // block_size) - (-(policy.window + UNIT) // block_size) + 1


class Sight(NamedTuple):
    """The fields of `Batch` with these names."""

    sinks: I32 | None = None
    windows: I32 | None = None
    sink_positions: I32 | None = None


def sight(sequences: list[Sequence], positions: I32, query_starts: I32) -> Sight:
    """What the rows of a batch of these sequences see.

    positions [T]: of the batch's rows. A draft tree's nodes have theirs already.
    """
    if not any([isinstance(seq.eviction, SinkRecent) for seq in sequences]):
        return Sight()
    policies = [seq.eviction if isinstance(seq.eviction, SinkRecent) else SinkRecent(0, 0) for seq in sequences]
    sinks = np.array([policy.sinks for policy in policies], np.int32)
    windows = np.array([policy.window for policy in policies], np.int32)
    counts = np.diff(query_starts)
    most = np.where(sinks > 0, sinks + windows, -1).astype(np.int32).repeat(counts)
    return Sight(sinks, windows, np.minimum(positions, most))


def seen(position: int, keys: I32 | I64, sinks: int, window: int) -> NDArray[np.bool_]:
    """Which of the keys at these positions a token sees (bool). The readable form of the rule."""
    return (keys < sinks) | (keys // UNIT >= position // UNIT - window // UNIT)


def kept_positions(length: int, first: int, sinks: int, block_size: int) -> I32:
    """[length]: the position of each entry of a sequence's KV. first: position of the entry after them."""
    index = np.arange(length, dtype=np.int32)
    whole = -(-sinks // block_size) * block_size  # the blocks that hold the sinks are never dropped
    return np.where(index < whole, index, index + np.int32(first - length)).astype(np.int32)
