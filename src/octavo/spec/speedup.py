"""What drafts give on average, from how often they are accepted and what they cost (2211.17192, section 3)."""

from __future__ import annotations


def expected_tokens(alpha: float, length: float) -> float:
    """(1 - alpha^(k+1)) / (1 - alpha): tokens that a step with k drafted ones gives (2211.17192, eq. 1)."""
    return length + 1.0 if alpha >= 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


def expected_speedup(alpha: float, length: int, verify_cost: float, draft_cost: float = 0.0) -> float:
    """Over plain decoding. verify_cost: T(k + 1) / T(1). draft_cost: of one drafted token, in the same unit."""
    return expected_tokens(alpha, length) / (verify_cost + length * draft_cost)
