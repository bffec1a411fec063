"""Mutations of a file's bytes, and the loop that tries them on a reader. Everything follows from the seed."""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octavo.errors import ModelFileError

BYTES = (0, 1, 2, 7, 8, 9, 31, 32, 0x7F, 0x80, 0xFF)
NUMBERS = (
    0,
    1,
    2,
    3,
    0xFF,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 32,
    2**64 - 1,
)
MAX_SECONDS = 1.0  # limit for one file


@dataclass
class Tally:
    accepted: int = 0
    rejected: int = 0
    slowest: float = 0.0


def mutate(raw: bytes, header: int, rng: random.Random) -> bytes:
    """1 to 4 changes, most of them in the first `header` bytes."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(min(header, len(data)) if rng.random() < 0.9 else len(data))
        rng.choice(CHANGES)(data, at, rng)
        if not data:
            break
    return bytes(data)


def _flip(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] ^= 1 << rng.randrange(8)


def _odd_byte(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] = rng.choice(BYTES)


def _number(data: bytearray, at: int, rng: random.Random) -> None:
    size = rng.choice((4, 8))
    value = (rng.choice(NUMBERS) + rng.randrange(-1, 2)) % (1 << 8 * size)
    data[at : at + size] = struct.pack("<Q", value)[:size]


def _cut(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at:]


def _remove(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.randrange(1, 64)]


def _insert(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = rng.randbytes(rng.randrange(1, 64))


def _copy(data: bytearray, at: int, rng: random.Random) -> None:
    start, size = rng.randrange(len(data)), rng.randrange(1, 64)
    data[at : at + size] = data[start : start + size]


CHANGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip, _odd_byte, _number, _number, _cut, _remove, _insert, _copy,
)  # fmt: skip


def fuzz(raw: bytes, header: int, path: Path, read: Callable[[Path], None], iterations: int, seed: int = 0) -> Tally:
    """Writes each mutation to `path` and reads it. Every exception but a ModelFileError is raised."""
    tally = Tally()
    for i in range(iterations):
        path.unlink(missing_ok=True)  # some file systems flush to disk when a file is overwritten
        path.write_bytes(mutate(raw, header, random.Random(f"{seed}/{i}")))
        start = time.process_time()
        try:
            read(path)
            tally.accepted += 1
        except ModelFileError as error:
            assert str(path.parent) in str(error), f"seed {seed}, iteration {i}: {error!r} does not name the file"
            tally.rejected += 1
        except BaseException:
            print(f"seed {seed}, iteration {i}", file=sys.stderr)
            raise
        tally.slowest = max(tally.slowest, time.process_time() - start)
    assert tally.slowest < MAX_SECONDS, tally
    return tally


def main(make: Callable[[Path], tuple[bytes, int, Path]], read: Callable[[Path], None]) -> None:
    """The command line of a fuzz script. make(folder) returns valid bytes, their header length and a path."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, header, path = make(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        tally = fuzz(raw, header, path, read, arguments.iterations, arguments.seed)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{tally} in {time.monotonic() - start:.0f} s; {len(raw)} byte file; peak memory grew by {grown / 1024:.1f} MiB"
    )
