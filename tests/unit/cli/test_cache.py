"""`octavo cache ls|verify|clear`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo.cli.main import main
from octavo.kv import slab
from tests.unit.kv.test_tier_disk import SIZE, block, key, open_tier


def stock(folder: Path, name: str, count: int) -> slab.Header:
    tier = open_tier(folder, name, 200_000, SIZE, b"f" * 32, f"model of {name}")
    assert tier is not None
    for number in range(count):
        tier.write(key(number), block(number))
    header = tier._slab.header
    tier.close()
    return header


def test_ls_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = stock(tmp_path, "kv-a.slab", 3)
    (tmp_path / "kv-b.slab").write_text("something else")
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["cache", "ls", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"3/{header.slots}" in shown and "model of kv-a.slab" in shown and "not a KV cache" in shown
    assert "notes" not in shown
    assert main(["cache", "ls", str(tmp_path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["blocks"], first["slots"], first["in_use"]) == (3, header.slots, False)
    assert first["bytes"] == header.size and second["trouble"]


def test_verify_finds_damaged_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = stock(tmp_path, "kv-a.slab", 4)
    assert main(["cache", "verify", str(tmp_path)]) == 0
    assert "4 blocks are sound, 0 are damaged" in capsys.readouterr().out
    path = tmp_path / "kv-a.slab"
    data = bytearray(path.read_bytes())
    data[header.first_payload + 2 * header.stride + 5] ^= 1
    path.write_bytes(data)
    assert main(["cache", "verify", str(tmp_path)]) == 1
    assert "3 blocks are sound, 1 are damaged" in capsys.readouterr().out


def test_clear_deletes_caches_that_nobody_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock(tmp_path, "kv-a.slab", 1)
    (tmp_path / "notes.txt").write_text("mine")
    tier = open_tier(tmp_path, "kv-b.slab", 200_000, SIZE, b"f" * 32, "")
    assert tier is not None
    assert main(["cache", "clear", str(tmp_path)]) == 2
    out = capsys.readouterr()
    assert "kv-a.slab: deleted" in out.out and "kv-b.slab: a process uses it" in out.err
    assert {path.name for path in tmp_path.iterdir()} == {"kv-b.slab", "notes.txt"}
    tier.close()
    assert main(["cache", "clear", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_none_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "verify", "clear"):
        assert main(["cache", command, str(tmp_path / "nowhere")]) == 2
        assert "is not a folder" in capsys.readouterr().err
