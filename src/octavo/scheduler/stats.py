"""Counters of the engine, for metrics. All are totals since the start, except the four gauges."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

GAUGES = ("running", "waiting", "kv_usage", "step_tokens")


@dataclass(slots=True)
class Stats:
    running: int = 0  # gauge: sequences
    waiting: int = 0  # gauge: sequences
    kv_usage: float = 0.0  # gauge: 0 to 1
    step_tokens: int = 0  # gauge: query tokens of the last step
    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0  # tokens looked up in the prefix cache
    prefix_hits: int = 0  # tokens found there
    prompt_tokens: int = 0  # of admitted requests, cached ones included
    generation_tokens: int = 0
    drafts: int = 0  # sequences x steps with drafts under verification
    draft_tokens: int = 0
    accepted_tokens: int = 0
    whole_drafts: int = 0  # drafts of which every token was accepted
    accepted_at: Counter[int] = field(default_factory=Counter)  # accepted drafts by their place in the draft, from 0
    draft_lengths: Counter[int] = field(default_factory=Counter)  # drafts under verification by their number of tokens
    draft_seconds: float = 0.0  # propose
    backend_errors: int = 0  # steps that raised
    schedule_seconds: float = 0.0
    build_seconds: float = 0.0
    commit_seconds: float = 0.0  # includes the proposer's `observe`
    backend_seconds: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)  # sequences by finish_reason

    def since(self, earlier: Stats) -> Stats:
        """The difference to `earlier`, a deep copy made before. Gauges keep their current values."""
        return self._combined(earlier, -1)

    def plus(self, other: Stats) -> Stats:
        """The sum of both. Gauges are those of `self`."""
        return self._combined(other, 1)

    def _combined(self, other: Stats, sign: int) -> Stats:
        out = copy.deepcopy(self)
        for name in [entry.name for entry in fields(self) if entry.name not in GAUGES]:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                setattr(
                    out, name, Counter({key: mine[key] + sign * theirs[key] for key in mine.keys() | theirs.keys()})
                )
            else:
                setattr(out, name, mine + sign * theirs)
        return out

    def speculation(self) -> dict[str, Any]:
        """The speculation figures of a report."""
        return {
            "drafts": self.drafts,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
            "acceptance": round(self.acceptance, 4),
            "accepted_length": round(self.mean_accepted_length, 3),
            "accepted_at": {place: count for place, count in sorted(self.accepted_at.items()) if count},
            "draft_lengths": {length: count for length, count in sorted(self.draft_lengths.items()) if count},
            "draft_seconds": round(self.draft_seconds, 4),
        }

    @property
    def control_seconds(self) -> float:
        """Seconds of the control plane: all of a step except drafting and the backend."""
        return self.schedule_seconds + self.build_seconds + self.commit_seconds

    @property
    def acceptance(self) -> float:
        """Accepted share of the verified draft tokens. Tokens after a rejected one do not count as verified."""
        return self.accepted_tokens / max(1, self.accepted_tokens + self.drafts - self.whole_drafts)

    @property
    def mean_accepted_length(self) -> float:
        """Mean tokens a sequence gained in a step with drafts, including the one of a plain step (as vLLM counts)."""
        return 1 + self.accepted_tokens / max(1, self.drafts)
