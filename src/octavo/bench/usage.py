"""Memory use of the process."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_rss() -> int:
    """Returns the peak resident memory of this process in bytes.

    On Linux `ru_maxrss` starts at the parent's value, so VmHWM is read first: it starts anew with the program.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
