"""Valid GGUF files: what was written is read, lazily and without loading tensors into memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from octavo.errors import ModelFileError
from octavo.ir import Weight
from octavo.weights import open_checkpoint
from octavo.weights.checkpoint import release
from octavo.weights.formats import GGUF_TYPES
from octavo.weights.gguf import open_gguf
from octavo.weights.gguf_values import StringArray
from octavo.weights.gguf_writer import write_gguf
from tests.models import model_path
from tests.unit.weights.tiny import COLUMNS, ROWS, random_weight, tiny_metadata, write_tiny


def test_metadata_comes_back_with_every_type(tmp_path: Path) -> None:
    file = open_gguf(write_tiny(tmp_path / "tiny.gguf"))
    wanted = tiny_metadata(20)
    assert list(file.metadata) == list(wanted)
    for key, value in wanted.items():
        assert np.array_equal(np.asarray(file.metadata[key]), np.asarray(value)), key
    assert type(file.metadata["scalar.I"]) is int and type(file.metadata["scalar.f"]) is float
    assert file.metadata["scalar.bool"] is True
    assert file.metadata["array.h"].dtype == np.int16


def test_tensors_come_back_byte_for_byte(tmp_path: Path) -> None:
    file = open_gguf(write_tiny(tmp_path / "tiny.gguf"))
    assert len(file.tensors) == len(GGUF_TYPES) + 1
    assert file.tensors["norm.weight"].shape == (COLUMNS,)
    for type in GGUF_TYPES:
        weight, wanted = file.tensors[f"blk.0.{type}.weight"], random_weight(type)
        assert (weight.shape, weight.type) == ((ROWS, COLUMNS), type)
        assert np.array_equal(weight.data, wanted.data)
        assert not weight.data.flags.writeable


def test_encodings_of_our_own_are_not_gguf(tmp_path: Path) -> None:
    """They have no type number, so a file cannot name them, and none is written."""
    with pytest.raises(AssertionError, match="GGUF has no U4_64"):
        write_gguf(tmp_path / "own.gguf", {}, {"w": random_weight("U4_64")})
    assert not list(tmp_path.iterdir())


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    reader = pytest.importorskip("gguf").GGUFReader(write_tiny(tmp_path / "tiny.gguf"))
    file = open_gguf(tmp_path / "tiny.gguf")
    assert [f.name for f in reader.fields.values() if not f.name.startswith("GGUF.")] == list(file.metadata)
    for tensor in reader.tensors:
        weight = file.tensors[tensor.name]
        assert (tuple(tensor.shape)[::-1], tensor.tensor_type.name) == (weight.shape, weight.type)
        assert np.array_equal(np.asarray(tensor.data).view(np.uint8).ravel(), weight.data)


def test_string_array_is_a_lazy_sequence(tmp_path: Path) -> None:
    tokens = open_gguf(write_tiny(tmp_path / "tiny.gguf")).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray)
    assert (len(tokens), tokens[0], tokens[-1], tokens[2:4]) == (20, "töken0", "töken19", ["töken2", "töken3"])
    assert "töken7" in tokens and tokens.index("töken7") == 7
    with pytest.raises(IndexError):
        tokens[20]


def test_vocabulary_of_qwen_size_opens_well_under_a_second(tmp_path: Path) -> None:
    strings = [f"token {i}" for i in range(151_936)]
    write_gguf(tmp_path / "big.gguf", {"tokenizer.ggml.tokens": strings, "tokenizer.ggml.merges": strings}, {})
    start = time.process_time()
    metadata = open_gguf(tmp_path / "big.gguf").metadata
    assert time.process_time() - start < 0.4
    assert list(metadata["tokenizer.ggml.tokens"]) == strings
    assert list(metadata["tokenizer.ggml.merges"])[-1] == strings[-1]
    assert time.process_time() - start < 0.8


def sparse_file(path: Path, rows: int, columns: int) -> Path:
    """A file that claims rows x columns of F32, with the data a hole that takes no disk."""
    one = Weight("w", (1, 8), "F32", np.zeros(32, np.uint8))
    write_gguf(path, {}, {"w": one})
    raw = bytearray(path.read_bytes())
    dims = raw.index(b"w") + 1 + 4
    raw[dims : dims + 16] = np.array([columns, rows], "<u8").tobytes()
    path.write_bytes(raw)
    with path.open("r+b") as file:
        file.truncate(len(raw) - 32 + 4 * rows * columns)
    return path


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "huge.gguf", 1 << 18, 1 << 12)
    process = psutil.Process()
    before = process.memory_info().rss
    file = open_gguf(path)
    assert file.tensors["w"].data.nbytes == 1 << 32
    assert process.memory_info().rss - before < 8 << 20


def test_release_gives_the_pages_back(tmp_path: Path) -> None:
    data = open_gguf(sparse_file(tmp_path / "large.gguf", 1 << 12, 1 << 12)).tensors["w"].data
    process = psutil.Process()
    assert data[:: 1 << 12].sum() == 0
    full = process.memory_info().rss
    release(data)
    assert full - process.memory_info().rss > 48 << 20
    assert data[-1] == 0  # still readable


def test_views_outlive_the_file(tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "tiny.gguf")) as file:
        weight = file.tensors["norm.weight"]
    assert not file.tensors
    assert weight.data.view("<f4").sum() == COLUMNS


def write_split(folder: Path, count: int, **metadata: object) -> list[Path]:
    paths = []
    for i in range(count):
        path = folder / f"m-{i + 1:05}-of-{count:05}.gguf"
        weight = random_weight("Q8_0", seed=i)
        split = {"split.no": i, "split.count": count, "split.tensors.count": count, **metadata}
        write_gguf(path, split | ({"general.name": "m"} if i == 0 else {}), {f"w{i}": weight})
        paths.append(path)
    return paths


def test_split_file_opens_from_any_part(tmp_path: Path) -> None:
    paths = write_split(tmp_path, 3)
    for path in paths:
        file = open_gguf(path)
        assert list(file.tensors) == ["w0", "w1", "w2"]
        assert file.metadata["general.name"] == "m"
        assert file.size == sum(p.stat().st_size for p in paths)


def test_split_file_that_is_not_whole(tmp_path: Path) -> None:
    paths = write_split(tmp_path, 3)
    paths[2].unlink()
    with pytest.raises(ModelFileError, match="00003-of-00003"):
        open_gguf(paths[0])
    with pytest.raises(ModelFileError, match=r"split.no.*is 0, not 1"):
        open_gguf(write_split(tmp_path, 2, **{"split.no": 0})[0])
    with pytest.raises(ModelFileError, match=r"split.tensors.count' is 5, not 2"):
        open_gguf(write_split(tmp_path, 2, **{"split.tensors.count": 5})[0])
    with pytest.raises(ModelFileError, match=r"split.count' is 7, not 2"):
        open_gguf(write_split(tmp_path, 2, **{"split.count": 7})[0])
    for wrong in ("3", 3.0, [3], ["3"], True):
        with pytest.raises(ModelFileError, match=r"split.count': must be an integer"):
            open_gguf(write_split(tmp_path, 2, **{"split.count": wrong})[0])
        write_gguf(tmp_path / "wrong.gguf", {"split.count": wrong}, {})
        with pytest.raises(ModelFileError, match=r"split.count': must be an integer"):
            open_gguf(tmp_path / "wrong.gguf")
    alone = write_split(tmp_path, 3)[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelFileError, match="one of 3 parts"):
        open_gguf(alone)


def test_joined_file_and_a_single_part(tmp_path: Path) -> None:
    write_gguf(tmp_path / "joined.gguf", {"split.count": 0}, {"w": random_weight("Q8_0")})
    assert list(open_gguf(tmp_path / "joined.gguf").tensors) == ["w"]
    (tmp_path / "joined.gguf").rename(tmp_path / "m-00001-of-00001.gguf")
    assert list(open_gguf(tmp_path / "m-00001-of-00001.gguf").tensors) == ["w"]


def test_parts_may_not_share_a_tensor(tmp_path: Path) -> None:
    first, second = write_split(tmp_path, 2)
    write_gguf(second, {"split.no": 1, "split.count": 2}, {"w0": random_weight("Q8_0")})
    with pytest.raises(ModelFileError, match=r"00002-of-00002.gguf: tensor 'w0' is in an earlier part too"):
        open_gguf(first)


def test_writer_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    before = path.read_bytes()
    with pytest.raises(TypeError, match="dict"):
        write_gguf(path, {"ok": 1, "bad": {}}, {})
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "wanted"), [(-5, -5), (2**31, 2**31), (2**40, 2**40), (-(2**40), -(2**40)), (0.5, 0.5)]
)
def test_writer_picks_a_type_that_holds_the_value(tmp_path: Path, value: float, wanted: float) -> None:
    write_gguf(tmp_path / "v.gguf", {"one": value, "many": [value, 1]}, {})
    metadata = open_gguf(tmp_path / "v.gguf").metadata
    assert metadata["one"] == wanted and list(metadata["many"]) == [wanted, 1]


@pytest.mark.parametrize(
    ("alias", "tensors", "tokens", "merges"),
    [
        ("smollm2-135m", 272, 49152, 48900),
        ("gemma3-270m", 236, 262144, 0),
        ("qwen2.5-coder-0.5b", 291, 151936, 151387),
        ("qwen2.5-coder-1.5b", 339, 151936, 151387),
    ],
)
def test_real_models(alias: str, tensors: int, tokens: int, merges: int) -> None:
    path = model_path(alias)
    start = time.process_time()
    with open_checkpoint(path) as file:
        assert time.process_time() - start < 0.5
        assert len(file.tensors) == tensors
        assert len(file.metadata["tokenizer.ggml.tokens"]) == tokens
        assert len(set(file.metadata["tokenizer.ggml.tokens"])) == tokens
        assert len(file.metadata.get("tokenizer.ggml.merges", ())) == merges


def test_the_coders_have_one_vocabulary() -> None:
    """So the smaller one can draft for the larger one."""
    small, large = (open_checkpoint(model_path(f"qwen2.5-coder-{size}b")).metadata for size in ("0.5", "1.5"))
    for key in ("tokens", "merges"):
        assert list(small[f"tokenizer.ggml.{key}"]) == list(large[f"tokenizer.ggml.{key}"])
