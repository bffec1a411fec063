"""This machine's limits: how fast its instructions multiply and its memory is read. What is measured is in
native/kernels/limits.inc.

A limit is the best of several tries: on a machine that does other things too, all of them are too low.
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
SMALLEST_BUFFER = 1 << 28  # 256 MB: larger than any last cache of the machines this is for
CACHES_LARGER = 4  # the buffer against the last cache


@dataclass(frozen=True)
class Loop:
    """One instruction. gops: threads -> 10^9 operations a second; a multiply-add is two."""

    kind: str
    instruction: str
    gops: dict[int, float]


@dataclass(frozen=True)
class Read:
    """Memory read in sequence. gbs: 10^9 bytes a second, the best over `streams` places at once for each thread."""

    threads: int
    streams: int
    gbs: float


@dataclass(frozen=True)
class Limits:
    """threads: of the engine; `loops` and `reads` have figures for one thread too."""

    cpu: str
    isa: str
    threads: int
    buffer_bytes: int
    loops: tuple[Loop, ...]
    reads: tuple[Read, ...]

    def peak(self, kind: str) -> float:
        """Operations a second of all threads, of "int8", "bf16" or "f32"."""
        return 1e9 * next(loop.gops[self.threads] for loop in self.loops if loop.kind == kind)

    @property
    def bandwidth(self) -> float:
        """Bytes a second of all threads."""
        return 1e9 * max(read.gbs for read in self.reads if read.threads == self.threads)

    def seconds(self, operations: Mapping[str, float]) -> float:
        """The least time that operations of each kind take."""
        return sum(count / self.peak(kind) for kind, count in operations.items() if count)


def measure(isa: str = "auto", threads: int | None = None, repeat: int = 7) -> Limits:
    """Takes a second or two, and a quarter of a gigabyte. Raises ConfigError for an instruction set not to be had."""
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
    """`measure` in a process of its own: its buffer is not to count as the memory of what is measured here."""
    command = [sys.executable, "-m", "octavo.bench.limits", isa, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return from_json(json.loads(done.stdout))


def current(isa: str, threads: int) -> Limits:
    """The limits that were saved for this processor, or newly measured ones. isa: "auto" is the best there is."""
    isa = _native.isas()[0] if isa == "auto" else isa
    return saved(isa, threads) or measure_apart(isa, threads)


# ---------------------------------------------------------------- kept


def to_json(limits: Limits) -> dict[str, Any]:
    return asdict(limits)


def from_json(values: Mapping[str, Any]) -> Limits:
    loops = (Loop(v["kind"], v["instruction"], {int(n): g for n, g in v["gops"].items()}) for v in values["loops"])
    reads = (Read(**v) for v in values["reads"])
    return Limits(**{**values, "loops": tuple(loops), "reads": tuple(reads)})


def save(limits: Limits) -> Path:
    """Keeps them in the cache folder, beside those of other processors and thread counts. Returns the file."""
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
    except ModelFileError:  # somebody's edit: what it says can be measured again
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
    """Much more than the last cache, and no more than a quarter of what is free."""
    return min(max(SMALLEST_BUFFER, CACHES_LARGER * last_cache()), available_memory() // 4)


def last_cache() -> int:
    """Bytes of the largest cache of the first CPU; 0 where the system does not say."""
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
