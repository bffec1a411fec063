"""The packed artifact: a folder with a model's matrices in the CPU backend's layout, to be mapped instead of packed.

  manifest.json  what weights.bin holds, and what it was built from
  weights.bin    the matrices in panels (native/pack.h), in the order of first use, each at a multiple of 64 bytes
  model.gguf     the vectors, and a GGUF source's metadata
  strings.json   its arrays of strings, mainly the vocabulary: JSON is read five times as fast
  config.json, tokenizer files  as they were in a source that was a folder

Panels are the same on every processor, but their layout may change. The manifest holds the layout's version, and the
backend refuses a different one. This module does not know how panels are made or how long they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from octavo.errors import ConfigError, ModelFileError
from octavo.ir import ROWS, Weight
from octavo.weights.checkpoint import Bytes, Checkpoint, map_file, prefetch
from octavo.weights.formats import FORMATS
from octavo.weights.gguf import SPLIT_NAME, open_gguf
from octavo.weights.gguf_values import MAX_ENTRIES, StringArray
from octavo.weights.gguf_writer import write_gguf
from octavo.weights.pooling import pooling_files
from octavo.weights.safetensors import read_json

FORMAT, VERSION = "octavo-artifact", 1
MANIFEST, PANELS, REST, STRINGS = "manifest.json", "weights.bin", "model.gguf", "strings.json"
ALIGNMENT = 64  # bytes: a cache line, and a vector of the widest instruction set
MAX_SIDE = 1 << 31  # rows or columns of a matrix


@dataclass(eq=False)
class Artifact(Checkpoint):
    """An open artifact. Tensors have canonical names; `metadata` is the source's, GGUF's or config.json.

    source: file name, bytes and sha256 of what it was built from.
    """

    source: Mapping[str, Any]


class Packer(Protocol):
    """Packs matrices one at a time; see `octavo.backends.cpu.packing`."""

    def __call__(self) -> Iterator[tuple[str, Weight, Bytes]]:
        """Yields the name, the weight in rows, and its panels, which are valid until the next item."""


def is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path / PANELS).is_file()


# ---------------------------------------------------------------- reading


def open_artifact(folder: str | Path) -> Artifact:
    """Maps an artifact and reads only its manifest and metadata. Raises ModelFileError naming file and field."""
    folder = Path(folder)
    manifest = _Fields(folder / MANIFEST, read_json(folder / MANIFEST))
    manifest.expect("format", FORMAT, "not made by `octavo build`")
    manifest.expect("version", VERSION, "made by another version of Octavo: build it again from the model file")
    data = map_file(folder / PANELS)
    if manifest.integer("bytes") != len(data):
        manifest.fail("bytes", f"{manifest.values['bytes']}, but {PANELS} has {len(data)}: it is cut off or mixed up")
    rest = open_gguf(folder / REST)
    tensors = _matrices(manifest, data)
    if twice := tensors.keys() & rest.tensors.keys():
        manifest.fail("weights", f"{min(twice)!r:.200} is in {REST} too")
    prefetch(data)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Artifact(folder, size, _settings(folder, rest), {**tensors, **rest.tensors}, manifest.mapping("source"))


def _settings(folder: Path, rest: Checkpoint) -> Mapping[str, Any]:
    """GGUF's metadata, or config.json."""
    if "general.architecture" in rest.metadata:
        return {**rest.metadata, **read_json(folder / STRINGS)}
    return read_json(folder / "config.json")


@dataclass(frozen=True)
class _Fields:
    """A JSON object, read with checks of each field."""

    path: Path
    values: Mapping[str, Any]
    name: str = ""

    def fail(self, field: str, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {self.name}{field}: {problem}")

    def expect(self, field: str, wanted: Any, why: str) -> None:
        value = self.values.get(field)
        if type(value) is not type(wanted) or value != wanted:
            self.fail(field, f"{value!r:.40} instead of {wanted!r}: {why}")

    def integer(self, field: str) -> int:
        value = self.values.get(field)
        if type(value) is not int or not 0 <= value < 1 << 63:
            self.fail(field, f"must be an integer of at least 0, not {value!r:.40}")
        return value

    def mapping(self, field: str) -> Mapping[str, Any]:
        value = self.values.get(field)
        if not isinstance(value, dict):
            self.fail(field, f"must be an object, not {value!r:.40}")
        return value


def _matrices(manifest: _Fields, data: Bytes) -> dict[str, Weight]:
    """The manifest's weights. Each has the bytes up to the start of the next. The backend that packed them checks that
    their number fits type and shape.
    """
    entries, layout = manifest.mapping("weights"), manifest.integer("layout")
    if layout == ROWS:
        manifest.fail("layout", f"{layout} is not one of panels")
    if len(entries) > MAX_ENTRIES:
        manifest.fail("weights", f"{len(entries)} is over the limit of {MAX_ENTRIES}")
    tensors: dict[str, Weight] = {}
    end = len(data)
    for name, values in reversed([*entries.items()]):
        if not isinstance(values, dict):
            manifest.fail(f"weights {name!r:.200}", "must be an object")
        entry = _Fields(manifest.path, values, f"weights {name!r:.200}: ")
        type, shape = _type_and_shape(entry)
        if (offset := entry.integer("offset")) % ALIGNMENT or offset >= end:
            entry.fail("offset", f"{offset} is not a multiple of {ALIGNMENT} before {end}, where the next begins")
        tensors[name] = Weight(name, shape, type, data[offset:end], layout)
        end = offset
    return dict(reversed([*tensors.items()]))


def _type_and_shape(entry: _Fields) -> tuple[str, tuple[int, int]]:
    type, shape = entry.values.get("type"), entry.values.get("shape")
    if not isinstance(type, str) or type not in FORMATS:
        entry.fail("type", f"{type!r:.40} is unknown (supported: {', '.join(FORMATS)})")
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_side(v) for v in shape):
        entry.fail("shape", f"must be two integers from 1 to {MAX_SIDE - 1}, not {shape!r:.80}")
    if shape[1] % (block := FORMATS[type].block_size):
        entry.fail("shape", f"{shape[1]} columns are not a multiple of {type}'s block of {block}")
    return type, (shape[0], shape[1])


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value < MAX_SIDE


# ---------------------------------------------------------------- writing


def write_artifact(
    folder: str | Path,
    source: Checkpoint,
    weights: Mapping[str, Weight],
    packer: Packer,
    layout: int,
    overwrite: bool = False,
) -> int:
    """Writes the artifact of an open model file; returns its bytes. It appears under `folder` complete or not at all.

    weights: all of the model's, by canonical name; those that `packer` does not yield are copied to model.gguf.
    layout: the version of the panels that `packer` yields.
    overwrite: replace an existing artifact; anything else is never replaced. Raises ConfigError.
    """
    folder = Path(folder)
    if isinstance(source, Artifact):
        raise ConfigError(f"{source.path} is an artifact already: build from the original model file")
    _check_target(folder, overwrite)
    try:
        with _arriving(folder) as temporary:
            entries, size = _write_panels(temporary / PANELS, packer)
            rest = {name: weight for name, weight in weights.items() if name not in entries}
            _write_settings(source, temporary, rest)
            manifest = {"format": FORMAT, "version": VERSION, "layout": layout}
            manifest |= {"source": fingerprint(source), "bytes": size, "weights": entries}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
            return sum(file.stat().st_size for file in temporary.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from error


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_artifact(folder):
        raise ConfigError(f"{folder} exists and is not an artifact: choose another name for the output")
    if not overwrite:
        raise ConfigError(f"{folder} exists already: use --force to replace it")


@contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces `folder` on success and is removed on failure.

    Processes that have mapped the old artifact keep its files.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_panels(path: Path, packer: Packer) -> tuple[dict[str, dict[str, Any]], int]:
    """Writes weights.bin. Returns the manifest's entries and the file's size in bytes."""
    entries: dict[str, dict[str, Any]] = {}
    with path.open("wb") as file:
        for name, weight, panels in packer():
            assert file.tell() % ALIGNMENT == 0 and weight.layout == ROWS
            entries[name] = {"type": weight.type, "shape": list(weight.shape), "offset": file.tell()}
            file.write(panels.data)
        file.flush()
        os.fsync(file.fileno())
        return entries, file.tell()


def _write_settings(source: Checkpoint, target: Path, tensors: Mapping[str, Weight]) -> None:
    """Writes the metadata (or a folder's config.json, tokenizer files and templates) and the tensors that are not
    panels."""
    if "general.architecture" not in source.metadata:
        write_gguf(target / REST, {}, tensors)
        folder = source.path if source.path.is_dir() else source.path.parent
        for file in [*folder.glob("*.json"), *folder.glob("*.jinja")]:
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, target / file.name)
        for part in pooling_files(folder):
            (target / part).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / part, target / part)
        return
    # The keys that describe a split source do not apply.
    metadata = {key: value for key, value in source.metadata.items() if not key.startswith("split.")}
    # Only the tokenizer reads strings of arrays.
    strings = {
        key: list(value) if key.startswith("tokenizer.") else value.readable()
        for key, value in metadata.items()
        if isinstance(value, StringArray)
    }
    (target / STRINGS).write_text(json.dumps(strings, ensure_ascii=False), encoding="utf-8")
    plain = {key: np.float64(v) if isinstance(v, float) else v for key, v in metadata.items() if key not in strings}
    write_gguf(target / REST, plain, tensors)


def fingerprint(source: Checkpoint) -> dict[str, Any]:
    """Name, bytes and sha256 of a model file. The sha256 of several files is that of their concatenation."""
    digest = hashlib.sha256()
    for path in _files(source.path):
        data = map_file(path)
        for start in range(0, len(data), 1 << 24):
            digest.update(data[start : start + (1 << 24)].data)
    return {"file": source.path.name, "bytes": source.size, "sha256": digest.hexdigest()}


def _files(path: Path) -> list[Path]:
    """The files that hold a model's tensors."""
    if path.is_dir():
        return sorted(path.glob("*.safetensors"))
    split = SPLIT_NAME.fullmatch(path.name)
    return sorted(path.parent.glob(f"{escape(split['stem'])}-*-of-{split['count']}.gguf")) if split else [path]
