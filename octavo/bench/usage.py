"""What the process has used."""

from __future__ import annotations

import resource
import sys


def peak_rss() -> int:
    """Most bytes of memory that this process has had resident at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
