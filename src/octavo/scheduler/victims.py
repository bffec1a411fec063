"""Which sequence is preempted when the KV blocks run out: plain functions of the candidates.

The candidates are the running sequences in policy order, without the first: the oldest of the most urgent sequences is
never preempted while others run. So it finishes, whatever the choice among the others, and by induction every sequence
does. A choice affects when tokens are computed, never which.
"""

from __future__ import annotations

from collections.abc import Callable

from octavo.types import Sequence

Victim = Callable[[list[Sequence]], Sequence]


def last(candidates: list[Sequence]) -> Sequence:
    """The last in policy order: usually the one that came last, with the least work to repeat."""
    return candidates[-1]


def lowest_priority(candidates: list[Sequence]) -> Sequence:
    """The least urgent (the largest `priority`), and of these the last in policy order. It differs from `last` under a
    policy that ignores priorities."""
    return max(enumerate(candidates), key=lambda item: (item[1].request.priority, item[0]))[1]


def most_blocks(candidates: list[Sequence]) -> Sequence:
    """The one that holds most blocks, and of these the last in policy order: fewest preemptions, most work repeated."""
    return max(enumerate(candidates), key=lambda item: (len(item[1].block_table), item[0]))[1]


def score(candidates: list[Sequence]) -> Sequence:
    """The lowest wait / (priority x generated length): it waited least, is least urgent and has generated most.

    wait: seconds in the queue before it first ran. Priorities count from 1, the most urgent candidate's.
    """
    urgent = min(seq.request.priority for seq in candidates)

    def kept(item: tuple[int, Sequence]) -> tuple[float, int]:
        place, seq = item
        waited = max(0.0, (seq.scheduled or 0.0) - seq.request.arrival)
        return waited / ((seq.request.priority - urgent + 1) * max(1, seq.num_output_tokens)), -place

    return min(enumerate(candidates), key=kept)[1]


VICTIMS: dict[str, Victim] = {"last": last, "priority": lowest_priority, "blocks": most_blocks, "score": score}
