"""Counters of the engine, for metrics. Totals since the start, but for the four gauges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
    accepted_at: Counter[int] = field(default_factory=Counter)  # accepted drafts by their place in the draft, from 0
    draft_lengths: Counter[int] = field(default_factory=Counter)  # drafts under verification by their number of tokens
    draft_seconds: float = 0.0  # propose
    backend_errors: int = 0  # steps that raised
    control_seconds: float = 0.0  # schedule, build, commit
    backend_seconds: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)  # sequences by finish_reason

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that stood."""
        return self.accepted_tokens / max(1, self.draft_tokens)

    @property
    def mean_accepted_length(self) -> float:
        """Tokens that a step with drafts gave a sequence, with the one it would have had anyway (as vLLM counts)."""
        return 1 + self.accepted_tokens / max(1, self.drafts)
