"""The machine: its processor, its main memory, what of it a KV pool may take, KV blocks in it, and its GPUs."""

from __future__ import annotations

import os
import platform
import subprocess
from glob import glob
from pathlib import Path

from octavo.backends.base import Facts
from octavo.types import U8, Transfers

LARGE_POOL = 1 << 30  # bytes that a pool takes at most, so that a laptop stays usable, unless one context needs more


def auto_pool(available: int, weights: int, context: int) -> int:
    """Bytes of a KV pool: half of what the weights leave, but no more than LARGE_POOL or one context of full length."""
    return min(max(0, available - weights) // 2, max(LARGE_POOL, context))


def available_memory() -> int:
    """Bytes this process may still take: the system's MemAvailable, or what its container has left if that is less."""
    return min(_system_available(), _cgroup_available())


def facts() -> Facts:
    """The processor and the main memory."""
    total = installed_memory()
    return Facts(processor(), total, max(0, total - _system_available()))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or Arm
        return platform.processor() or platform.machine()


def installed_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all of the machine's memory is the best that can be said
        return installed_memory()


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


def gpus() -> list[Facts]:
    """The NVIDIA GPUs, as their driver's own tool lists them. Loads nothing; empty where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in listed.splitlines():
        name, total, used = (part.strip() for part in line.rsplit(",", 2))
        found.append(Facts(name, int(total) << 20, int(used) << 20))  # it counts MiB
    return found


def store(transfers: Transfers, pool: U8, stage: U8) -> None:
    """Makes a transfer's stores, for a pool [blocks, bytes] in main memory."""
    if transfers.stores is not None:
        for block, row in transfers.stores.tolist():
            stage[row] = pool[block]


def load(transfers: Transfers, pool: U8, stage: U8) -> None:
    """Makes a transfer's loads."""
    if transfers.loads is not None:
        for row, block in transfers.loads.tolist():
            pool[block] = stage[row]
