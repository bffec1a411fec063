"""This machine's limits: how fast its instructions multiply and how fast it reads memory.

The measured loops are in native/kernels/limits.inc. A limit is the best of several runs. Other load on the machine
makes all runs too slow, and the limit too low.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octavo import _native
from octavo.backends.host import available_memory
from octavo.config import usable_threads
from octavo.errors import ConfigError, ModelFileError
from octavo.weights.aliases import home
from octavo.weights.safetensors import read_json

FILE = "limits.json"
STREAMS = (1, 2, 4, 8)
SMALLEST_BUFFER = 1 << 28  # 256 MB: larger than the last-level cache of the supported machines
CACHES_LARGER = 4  # buffer size over the size of the last-level cache


@dataclass(frozen=True)
class Loop:
    """One instruction's speed. gops: threads -> 10^9 operations per second; a multiply-add counts as two."""

    kind: str
    instruction: str
    gops: dict[int, float]


@dataclass(frozen=True)
class Read:
    """Sequential memory reads. gbs: 10^9 bytes per second, best run; each thread reads `streams` places at once."""

    threads: int
    streams: int
    gbs: float


@dataclass(frozen=True)
class Limits:
    """All limits of one machine. threads: the engine's count; `loops` and `reads` also hold figures for one thread."""

    cpu: str
    isa: str
    threads: int
    buffer_bytes: int
    loops: tuple[Loop, ...]
    reads: tuple[Read, ...]

    def peak(self, kind: str) -> float:
        """Operations per second of all threads. kind: "int8", "bf16" or "f32"."""
        return 1e9 * next(loop.gops[self.threads] for loop in self.loops if loop.kind == kind)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that all threads read together."""
        return 1e9 * max(read.gbs for read in self.reads if read.threads == self.threads)

    def seconds(self, operations: Mapping[str, float]) -> float:
        """Returns the least time for these operations. operations: kind -> count."""
        return sum(count / self.peak(kind) for kind, count in operations.items() if count)


def measure(isa: str = "auto", threads: int | None = None, repeat: int = 7) -> Limits:
    """Measures for a second or two and uses 256 MB or more. Raises ConfigError for an unavailable instruction set."""
    available = _native.isas()
    if isa != "auto" and isa not in available:
        raise ConfigError(f"isa {isa!r} is not available here: choose from {', '.join(available)} or 'auto'")
    isa = available[0] if isa == "auto" else isa
    threads = usable_threads(threads)
    pools = {count: _native.Pool(count) for count in sorted({1, threads})}
    loops = tuple(
        Loop(kind, name, {n: _giga(_native.ops_per_second(isa, name, pool, repeat)) for n, pool in pools.items()})
        for kind, name in _native.limit_loops(isa)
    )
    buffer = _native.ReadBuffer(pools[threads], buffer_bytes())
    reads = tuple(
        Read(n, streams, _giga(buffer.bytes_per_second(isa, pool, streams, repeat)))
        for n, pool in pools.items()
        for streams in STREAMS
    )
    return Limits(cpu_name(), isa, threads, buffer.bytes, loops, reads)


def measure_apart(isa: str, threads: int) -> Limits:
    """Runs `measure` in a separate process, so that its buffer does not count in this process's peak memory."""
    command = [sys.executable, "-m", "octavo.bench.limits", isa, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return from_json(json.loads(done.stdout))


def current(isa: str, threads: int) -> Limits:
    """Returns the limits saved for this processor, or measures them. isa: "auto" is the best available."""
    isa = _native.isas()[0] if isa == "auto" else isa
    return saved(isa, threads) or measure_apart(isa, threads)


# ---------------------------------------------------------------- saving


def to_json(limits: Limits) -> dict[str, Any]:
    return asdict(limits)


def from_json(values: Mapping[str, Any]) -> Limits:
    loops = (Loop(v["kind"], v["instruction"], {int(n): g for n, g in v["gops"].items()}) for v in values["loops"])
    reads = (Read(**v) for v in values["reads"])
    return Limits(**{**values, "loops": tuple(loops), "reads": tuple(reads)})


def save(limits: Limits) -> Path:
    """Saves the limits in the cache folder, beside those of other processors and thread counts. Returns the file."""
    path = home() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = _entries(path) | {_key(limits.cpu, limits.isa, limits.threads): to_json(limits)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(entries, indent=1))
    temporary.replace(path)
    return path


def saved(isa: str, threads: int) -> Limits | None:
    entry = _entries(home() / FILE).get(_key(cpu_name(), isa, threads))
    try:
        return None if entry is None else from_json(entry)
    except (KeyError, TypeError, ValueError, AttributeError):  # written by another version
        return None


def _entries(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except ModelFileError:  # the file was damaged by hand: the limits can be measured again
        return {}


def _key(cpu: str, isa: str, threads: int) -> str:
    return f"{cpu}, {isa}, {threads} threads"


# ---------------------------------------------------------------- the machine


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def buffer_bytes() -> int:
    """Returns a size well above the last-level cache, but at most a quarter of the free memory."""
    return min(max(SMALLEST_BUFFER, CACHES_LARGER * last_cache()), available_memory() // 4)


def last_cache() -> int:
    """Returns the bytes of the first CPU's largest cache; 0 if the system does not report it."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = file.read_text().strip()[:-1], file.read_text().strip()[-1:]
        if number.isdigit() and unit in "KM":
            sizes.append(int(number) << {"K": 10, "M": 20}[unit])
    return max(sizes, default=0)


def _giga(value: float) -> float:
    return round(value / 1e9, 2)


if __name__ == "__main__":
    print(json.dumps(to_json(measure(sys.argv[1], int(sys.argv[2])))))
