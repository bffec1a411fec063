"""The machine: its main memory, what of it a KV pool may take, and whether it has a GPU."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

LARGE_POOL = 1 << 30  # bytes that a pool takes at most, so that a laptop stays usable, unless one context needs more


def auto_pool(available: int, weights: int, context: int) -> int:
    """Bytes of a KV pool: half of what the weights leave, but no more than LARGE_POOL or one context of full length."""
    return min(max(0, available - weights) // 2, max(LARGE_POOL, context))


def available_memory() -> int:
    """Bytes this process may still take: the system's MemAvailable, or what its container has left if that is less."""
    return min(_system_available(), _cgroup_available())


def _system_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all of the machine's memory is the best that can be said
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_available() -> int:
    """Cgroup v2's limit less what is in use; page cache counts as free."""
    group = Path("/sys/fs/cgroup")
    try:
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int((group / "memory.max").read_text()) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 1 << 62


def has_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is loaded. It looks for device files, which costs nothing."""
    return bool(glob("/dev/nvidia[0-9]*"))
