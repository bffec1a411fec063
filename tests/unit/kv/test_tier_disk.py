"""The tier on a disk: what comes back is what was written, or nothing."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octavo.kv import slab, tier_disk
from octavo.kv.prefix import root_key
from octavo.kv.tier_disk import DiskTier, open_tier
from octavo.types import U8

SIZE = 5000  # bytes of a block: more than a page, and no multiple of one
MARK = b"f" * 32


def key(number: int, salt: str = "") -> bytes:
    return root_key(salt, str(number))


def block(number: int) -> U8:
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8)


def opened(folder: Path, slots: int = 8, **fields: object) -> DiskTier | None:
    settings: dict[str, object] = {"block_bytes": SIZE, "fingerprint": MARK, "title": "a model"}
    budget = 2 * slab.PAGE + slots * (2 * slab.PAGE + slab.ENTRY)
    return open_tier(folder, "kv.slab", budget, **(settings | fields))  # type: ignore[arg-type]


def made(folder: Path, numbers: range = range(3), slots: int = 8) -> DiskTier:
    tier = opened(folder, slots)
    assert tier is not None
    for number in numbers:
        tier.write(key(number), block(number))
    return tier


def found(tier: DiskTier | None, numbers: range) -> list[int]:
    """Those that come back. What comes back is right."""
    assert tier is not None
    kept = []
    for number in numbers:
        into = np.zeros(SIZE, np.uint8)
        if tier.read(key(number), into):
            assert (into == block(number)).all()
            kept.append(number)
    return kept


def test_blocks_come_back_now_and_after_a_restart(tmp_path: Path) -> None:
    tier = made(tmp_path)
    assert found(tier, range(5)) == [0, 1, 2] and tier.holds(key(2)) and not tier.holds(key(3))
    tier.close()
    assert found(opened(tmp_path), range(5)) == [0, 1, 2]


def test_the_least_recently_used_blocks_are_overwritten_also_after_a_restart(tmp_path: Path) -> None:
    tier = made(tmp_path, range(8))
    tier.touch(key(0))
    tier.write(key(8), block(8))
    assert found(tier, range(9)) == [0, 2, 3, 4, 5, 6, 7, 8] and tier.evictions == 1
    tier.close()
    again = opened(tmp_path)
    assert again is not None
    for number in (9, 10):
        again.write(key(number), block(number))
    assert found(again, range(11)) == [3, 4, 5, 6, 7, 8, 9, 10], "after a restart the oldest go first"


def test_the_file_has_its_size_at_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    made(folder, range(1))
    stat = (folder / "kv.slab").stat()
    assert stat.st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    assert stat.st_blocks * 512 >= 8 * SIZE and stat.st_size <= 2 * slab.PAGE + 8 * (2 * slab.PAGE + slab.ENTRY)


def test_salted_blocks_are_written_only_if_asked_for(tmp_path: Path) -> None:
    tier = made(tmp_path, range(0))
    assert not tier.takes(key(1, "secret")) and tier.takes(key(1))
    assert tier.write(key(1, "secret"), block(1)) == [] and not tier.holds(key(1, "secret"))
    tier.close()
    also = opened(tmp_path, salted=True)
    assert also is not None and also.takes(key(1, "secret"))


def test_a_second_process_reads_and_does_not_write(tmp_path: Path) -> None:
    first = made(tmp_path)
    second = opened(tmp_path)  # flock is per open file, so a second opening is as good as a second process
    assert second is not None and found(second, range(3)) == [0, 1, 2]
    assert not second.takes(key(9))
    second.write(key(9), block(9))
    assert not second.holds(key(9))
    for number in range(10, 18):  # overwrites what the second believes to be there
        first.write(key(number), block(number))
    assert found(second, range(3)) == []
    first.close()
    third = opened(tmp_path)
    assert third is not None and third.takes(key(9))


@pytest.mark.parametrize("name", ["other fingerprint", "other blocks", "other format", "damaged header", "other size"])
def test_a_file_that_does_not_fit_starts_anew_with_one_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path).close()
    path, fields = tmp_path / "kv.slab", dict[str, object]()
    if name == "other fingerprint":
        fields = {"fingerprint": b"g" * 32}
    elif name == "other blocks":
        fields = {"block_bytes": SIZE + 1}
    elif name == "other size":
        fields = {"slots": 9}
    else:
        data = bytearray(path.read_bytes())
        data[8 if name == "other format" else 20] ^= 1
        path.write_bytes(data)
    tier = opened(tmp_path, **fields)  # type: ignore[arg-type]
    assert tier is not None and not any(tier.holds(key(number)) for number in range(3))
    assert len(caplog.records) == 1 and "starts anew" in caplog.text
    if "block_bytes" not in fields:
        tier.write(key(1), block(1))
        assert found(tier, range(3)) == [1]


@pytest.mark.parametrize("content", [b"my thesis", b"x" * 100_000, b"OCTAVOKW" + bytes(9000)])
def test_a_file_that_is_not_ours_is_left_alone(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kv.slab").write_bytes(content)
    assert opened(tmp_path) is None
    assert (tmp_path / "kv.slab").read_bytes() == content
    assert len(caplog.records) == 1 and "not a KV cache" in caplog.text


def test_links_folders_and_places_that_cannot_be_written_are_no_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "kv.slab").symlink_to(tmp_path / "victim")
    assert opened(tmp_path) is None and (tmp_path / "victim").read_text() == "precious"
    assert opened(tmp_path / "victim") is None
    (tmp_path / "folder" / "kv.slab").mkdir(parents=True)
    assert opened(tmp_path / "folder") is None
    assert opened(tmp_path, slots=0) is None
    assert len(caplog.records) == 4


def test_every_flipped_bit_of_a_block_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, range(1)).close()
    path = tmp_path / "kv.slab"
    data = path.read_bytes()
    places = [slab.PAGE + at for at in range(slab.ENTRY - 12)]  # the entry
    places += [2 * slab.PAGE + at for at in random.Random(0).sample(range(SIZE), 40)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        tier = opened(tmp_path)
        assert found(tier, range(1)) == []
        tier.close()  # type: ignore[union-attr]


def test_a_damaged_block_is_reported_once_and_its_slot_is_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, range(8)).close()
    path = tmp_path / "kv.slab"
    data = bytearray(path.read_bytes())
    for slot in (2, 5):
        data[2 * slab.PAGE + slot * 2 * slab.PAGE + 77] ^= 4
    path.write_bytes(data)
    tier = opened(tmp_path)
    assert found(tier, range(8)) == [0, 1, 3, 4, 6, 7] and tier is not None
    assert len(caplog.records) == 1 and "damaged" in caplog.text
    tier.write(key(20), block(20))
    tier.write(key(21), block(21))
    assert tier.evictions == 0 and len(found(tier, range(30))) == 8
    tier.close()
    assert len(found(opened(tmp_path), range(30))) == 8


def test_a_file_that_was_cut_off_holds_what_is_left(tmp_path: Path) -> None:
    made(tmp_path, range(8)).close()
    os.truncate(tmp_path / "kv.slab", 2 * slab.PAGE + 3 * 2 * slab.PAGE + 100)
    assert found(opened(tmp_path), range(8)) == [0, 1, 2]


def failing(code: int) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize(("name", "code"), [("preadv", errno.EIO), ("pwritev", errno.EIO), ("pwritev", errno.ENOSPC)])
def test_an_error_turns_it_off_with_one_warning(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tier = made(tmp_path)
    monkeypatch.setattr(slab, name, failing(code))
    tier.write(key(7), block(7))
    assert not tier.read(key(1), np.zeros(SIZE, np.uint8)) and not tier.read(key(0), np.zeros(SIZE, np.uint8))
    assert not tier.holds(key(1)) and not tier.takes(key(8))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and os.strerror(code) in caplog.text
    monkeypatch.undo()
    tier.close()
    assert found(opened(tmp_path), range(3)) == [0, 1, 2], "what was written before is still right"


def test_a_disk_that_is_full_at_the_start_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    assert opened(tmp_path) is None
    assert len(caplog.records) == 1 and "No space" in caplog.text


def test_short_reads_and_torn_writes_are_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = made(tmp_path)
    monkeypatch.setattr(slab, "preadv", lambda file, views, at: os.preadv(file, [views[0][:-1]], at))
    assert found(tier, range(1)) == []
    monkeypatch.setattr(slab, "preadv", os.preadv)
    monkeypatch.setattr(slab, "pwritev", lambda file, views, at: os.pwritev(file, [views[0][:2000]], at))
    tier.write(key(9), block(9))
    monkeypatch.undo()
    tier.close()
    assert found(opened(tmp_path), range(10)) == [1, 2]


WRITER = """
import sys
from pathlib import Path
from tests.unit.kv.test_tier_disk import block, key, opened
tier = opened(Path(sys.argv[1]), 6)
print("ready", flush=True)
number = int(sys.argv[2])
while True:
    tier.write(key(number % 50), block(number % 50))
    number += 1
"""


def test_a_writer_that_is_killed_leaves_right_blocks_or_none(tmp_path: Path) -> None:
    rng = random.Random(1)
    kept = 0
    for attempt in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(attempt * 7)], stdout=-1) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            time.sleep(0.02 + 0.1 * rng.random())
            writer.send_signal(signal.SIGKILL)
        tier = opened(tmp_path, 6)
        kept += len(found(tier, range(50)))
        tier.close()  # type: ignore[union-attr]
    assert kept > 8


def test_the_writer_above_can_tear_a_block(tmp_path: Path) -> None:
    """The order of a write is payload, then entry: stopping between the two must not show the new payload as the old
    block."""
    tier = made(tmp_path, range(8))
    whole, parts = tier_disk.Slab._write, []

    def stop_after_the_payload(self: slab.Slab, data: memoryview, at: int) -> None:
        parts.append(at)
        if len(parts) == 2:
            raise OSError(errno.EIO, "killed")
        whole(self, data, at)

    tier._slab._write = stop_after_the_payload.__get__(tier._slab)  # type: ignore[method-assign]
    tier.write(key(8), block(8))
    assert parts[0] > parts[1]
    tier.close()
    assert found(opened(tmp_path), range(9)) == [1, 2, 3, 4, 5, 6, 7]
