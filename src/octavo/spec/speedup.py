"""Expected tokens and speed-up of speculation from acceptance and cost (2211.17192, section 3)."""

from __future__ import annotations


def expected_tokens(alpha: float, length: float) -> float:
    """(1 - alpha^(k+1)) / (1 - alpha): expected tokens of a step with k draft tokens (2211.17192, eq. 1)."""
    return length + 1.0 if alpha >= 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


def expected_speedup(alpha: float, length: int, verify_cost: float, draft_cost: float = 0.0) -> float:
    """Speed-up over plain decoding. verify_cost: T(k + 1) / T(1). draft_cost: one draft token's, in the same unit."""
    return expected_tokens(alpha, length) / (verify_cost + length * draft_cost)
