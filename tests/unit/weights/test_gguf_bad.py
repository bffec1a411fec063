"""Bad GGUF files: each wrong field is refused by name, quickly and without allocating memory."""

from __future__ import annotations

import os
import re
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from octavo.errors import ModelFileError
from octavo.weights.gguf import open_gguf
from tests.unit.weights.tiny import write_tiny

Entry = tuple[bytes, tuple[int, ...], int, int]
HUGE = 1 << 63
F32, Q4_0, Q4_K = 0, 2, 12


def text(raw: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def strings(count: int, *items: bytes) -> bytes:
    return struct.pack("<IQ", 8, count) + b"".join(items)


def tensor(name: bytes, dims: tuple[int, ...], kind: int = F32, offset: int = 0, num_dims: int | None = None) -> bytes:
    head = struct.pack(f"<I{len(dims)}Q", len(dims) if num_dims is None else num_dims, *dims)
    return text(name) + head + struct.pack("<IQ", kind, offset)


def gguf(
    *pairs: bytes,
    tensors: tuple[bytes, ...] = (),
    data: int = 256,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
) -> bytes:
    """Writes a file in which any field may be wrong. `data` bytes of zeros follow the aligned header."""
    counts = (len(tensors) if num_tensors is None else num_tensors, len(pairs) if num_pairs is None else num_pairs)
    raw = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32 + data)


U32 = struct.Struct("<I").pack
ONE = tensor(b"w", (8, 8))

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "short magic": (b"GG", "magic: 4 bytes at offset 0 run past the end"),
    "magic": (gguf(magic=b"ggml"), "magic: not a GGUF file (it starts with b'ggml')"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not a GGUF file"),
    "version 0": (gguf(version=0), "version: GGUF version 0 is not supported"),
    "version 1": (gguf(version=1), "version: GGUF version 1 is not supported"),
    "version 4": (gguf(version=4), "version: GGUF version 4 is not supported"),
    "big endian": (gguf(version=3 << 24), "version: big-endian"),
    "tensor count": (gguf(num_tensors=1000), "tensor count: 1000 items, but the rest of the file has room for"),
    "tensor count huge": (gguf(num_tensors=2**64 - 1), "tensor count: 18446744073709551615 items"),
    "tensor count over the limit": (gguf(num_tensors=70_000, data=4_000_000), "tensor count: 70000 is over the limit"),
    "tensor count plus one": (gguf(tensors=(ONE,), num_tensors=2), "tensor 1: name: is empty"),
    "metadata count": (gguf(num_pairs=HUGE), "metadata count: 9223372036854775808 items"),
    "metadata count over the limit": (gguf(num_pairs=70_000, data=4_000_000), "metadata count: 70000 is over"),
    "metadata count plus one": (gguf(pair(b"a", 4, U32(1)), num_pairs=2), "metadata 1: the key is empty"),
    "key length": (gguf(text(b"", HUGE), num_pairs=1), "metadata 0: key: length: 9223372036854775808 items"),
    "key too long": (gguf(pair(b"k" * 65536, 4, U32(1))), "metadata 0: key: length: 65536 is over the limit of 65535"),
    "key not UTF-8": (gguf(pair(b"k\xff", 4, U32(1))), "metadata 0: key: not UTF-8 (byte 1)"),
    "key empty": (gguf(pair(b"", 4, U32(1))), "metadata 0: the key is empty"),
    "key twice": (gguf(*[pair(b"a.b", 4, U32(1))] * 2), "metadata 1: the key 'a.b' comes twice"),
    "value type": (gguf(pair(b"a.b", 13, U32(1))), "metadata 'a.b': unknown value type 13"),
    "bool": (gguf(pair(b"a.b", 7, b"\2")), "metadata 'a.b': a bool of value 2"),
    "bool array": (gguf(pair(b"a.b", 9, struct.pack("<IQ", 7, 2) + b"\0\7")), "metadata 'a.b': a bool of value 7"),
    "string length": (gguf(pair(b"a.b", 8, text(b"x", 10**6))), "metadata 'a.b': length: 1000000 items"),
    "string length huge": (gguf(pair(b"a.b", 8, text(b"x", 2**64 - 1))), "metadata 'a.b': length"),
    "string too long": (gguf(pair(b"a.b", 8, text(b"", 5 << 20)), data=6 << 20), "length: 5242880 is over"),
    "item type": (gguf(pair(b"a.b", 9, struct.pack("<IQ", 99, 1))), "metadata 'a.b': unknown item type 99"),
    "array of arrays": (gguf(pair(b"a.b", 9, struct.pack("<IQ", 9, 1))), "metadata 'a.b': arrays of arrays"),
    "array count": (gguf(pair(b"a.b", 9, struct.pack("<IQ", 10, 10**9))), "metadata 'a.b': count: 1000000000 items"),
    "array size overflows": (gguf(pair(b"a.b", 9, struct.pack("<IQ", 10, 1 << 61))), "metadata 'a.b': count"),
    "string count": (gguf(pair(b"a.b", 9, strings(HUGE))), "metadata 'a.b': count: 9223372036854775808 items"),
    "string count over the limit": (
        gguf(pair(b"a.b", 9, strings(5_000_000)), data=41_000_000),
        "metadata 'a.b': count: 5000000 is over the limit of 4194304",
    ),
    "string item length": (gguf(pair(b"a.b", 9, strings(2, text(b"x"), text(b"", HUGE)))), "'a.b', item 1: runs"),
    "string item before": (gguf(pair(b"a.b", 9, strings(2, text(b"", 10**6)))), "metadata 'a.b', item 1: starts past"),
    "alignment 0": (gguf(pair(b"general.alignment", 4, U32(0))), "'general.alignment': must be a power of two"),
    "alignment 4": (gguf(pair(b"general.alignment", 4, U32(4))), "of at least 8, not 4"),
    "alignment 48": (gguf(pair(b"general.alignment", 4, U32(48))), "not 48"),
    "alignment of text": (gguf(pair(b"general.alignment", 8, text(b"32"))), "not '32'"),
    "name length": (gguf(tensors=(text(b"", HUGE),), num_tensors=1), "tensor 0: name: length"),
    "name not UTF-8": (gguf(tensors=(tensor(b"\xfe", (8, 8)),)), "tensor 0: name: not UTF-8"),
    "name empty": (gguf(tensors=(tensor(b"", (8, 8)),)), "tensor 0: name: is empty"),
    "name twice": (gguf(tensors=(tensor(b"w", (8,)), tensor(b"w", (8,), offset=32))), "'w': the name comes twice"),
    "no dims": (gguf(tensors=(tensor(b"w", ()),)), "tensor 'w': number of dims: must be 1 to 4, not 0"),
    "five dims": (gguf(tensors=(tensor(b"w", (1,) * 5),)), "tensor 'w': number of dims: must be 1 to 4, not 5"),
    "dims count": (gguf(tensors=(tensor(b"w", (1,), num_dims=2**32 - 1),)), "number of dims: must be 1 to 4"),
    "dim of 0": (gguf(tensors=(tensor(b"w", (8, 0)),)), "tensor 'w': dims: [8, 0] make no tensor"),
    "dims overflow 64 bits": (gguf(tensors=(tensor(b"w", (1 << 32, 1 << 32)),)), "tensor 'w': dims"),
    "dims wrap to a small size": (gguf(tensors=(tensor(b"w", (1 << 62, 4)),)), "tensor 'w': dims"),
    "size overflows 64 bits": (gguf(tensors=(tensor(b"w", (1 << 62,)),)), "past the end of the file"),
    "part of a block": (gguf(tensors=(tensor(b"w", (48,), Q4_0),)), "dim 0: 48 is not a multiple of Q4_0's"),
    "part of a K block": (gguf(tensors=(tensor(b"w", (128,), Q4_K),)), "dim 0: 128 is not a multiple of Q4_K's"),
    "type known": (gguf(tensors=(tensor(b"w", (256,), 16),)), "'w': type: IQ2_XXS is not supported (sup"),
    "type removed": (gguf(tensors=(tensor(b"w", (256,), 4),)), "tensor 'w': type: 4 is unknown"),
    "type unknown": (gguf(tensors=(tensor(b"w", (256,), 2**32 - 1),)), "'w': type: 4294967295 is unknown"),
    "offset unaligned": (gguf(tensors=(tensor(b"w", (8,), offset=8),)), "offset: 8 is not a multiple of the"),
    "past the end": (
        gguf(tensors=(tensor(b"blk.0.attn_q.weight", (8, 8), offset=32),)),
        "'blk.0.attn_q.weight': offset 32 + size 256 (data section at 96) is past the end of the file (352 bytes)",
    ),
    "offset huge": (gguf(tensors=(tensor(b"w", (8,), offset=2**64 - 32),)), "past the end of the file"),
    "overlap": (
        gguf(tensors=(tensor(b"a", (16,)), tensor(b"b", (16,), offset=32))),
        "tensor 'b': offset 32 overlaps tensor 'a' (0 + 64 bytes)",
    ),
    "same place": (gguf(tensors=(tensor(b"a", (8,)), tensor(b"b", (8,)))), "overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_field_is_named(tmp_path: Path, case: str) -> None:
    raw, message = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ModelFileError, match=re.escape(message)) as caught:
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 1.0
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_builder_makes_good_files_too(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(gguf(pair(b"a.b", 9, strings(2, text(b"x"), text(b"y"))), tensors=(ONE,), version=2))
    file = open_gguf(path)
    assert list(file.metadata["a.b"]) == ["x", "y"] and file.tensors["w"].shape == (8, 8) and file.version == 2


def test_a_string_that_is_not_utf8_stays_bytes(tmp_path: Path) -> None:
    """Nobody may need it: a name or an author in Latin-1 is no reason to refuse a model."""
    path = tmp_path / "latin1.gguf"
    path.write_bytes(gguf(pair(b"general.author", 8, text(b"Andr\xe9")), pair(b"a.b", 8, text("é".encode()))))
    assert open_gguf(path).metadata == {"general.author": b"Andr\xe9", "a.b": "é"}


def test_token_that_is_not_utf8_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(gguf(pair(b"a.b", 9, strings(2, text(b"x"), text(b"\xc3")))))
    tokens = open_gguf(path).metadata["a.b"]
    for read in (lambda: tokens[1], lambda: list(tokens)):
        with pytest.raises(ModelFileError, match=r"bad.gguf: metadata 'a.b', item 1: not UTF-8"):
            read()


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    for name, message in (
        ("none.gguf", "No such file"),
        ("fifo.gguf", "not a regular file"),
        (".", "not a regular file"),
    ):
        with pytest.raises(ModelFileError, match=message):
            open_gguf(tmp_path / name)


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "cut.gguf", vocab=3000)
    size = path.stat().st_size
    assert size > 1 << 16
    for length in reversed([*range(4096), *range(4096, 1 << 16, 97), *range(size - 1024, size, 31)]):
        os.truncate(path, length)
        with pytest.raises(ModelFileError):
            open_gguf(path)
