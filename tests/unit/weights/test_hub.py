"""`hf:` sources: which file is taken, what the cache holds, and what huggingface-hub is asked for."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import ModelFileError
from octavo.weights import hub, reachable
from octavo.weights.hub import HubSource, choose, parts_of
from octavo.weights.sources import available, pull, remove, resolve

NAMES = [
    "README.md", "config.json", "m-BF16.gguf", "m-IQ4_XS.gguf", "m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf",
    "mmproj-m.gguf",
]  # fmt: skip
SPLIT = ["big-Q8_0-00001-of-00002.gguf", "big-Q8_0-00002-of-00002.gguf"]


def test_parse() -> None:
    assert HubSource.parse("hf:org/repo") == HubSource("org/repo", None)
    assert HubSource.parse("hf:org/re-po.1:sub/f.gguf") == HubSource("org/re-po.1", "sub/f.gguf")
    for bad in ("hf:", "hf:org", "hf:org/repo/extra", "hf:org/repo:", "hf:../x:y:z"):
        with pytest.raises(ModelFileError, match="not of the form"):
            HubSource.parse(bad)


@pytest.mark.parametrize(
    ("names", "file", "wanted"),
    [
        (NAMES, None, "m-Q4_K_M.gguf"),
        (NAMES, "m-Q2_K.gguf", "m-Q2_K.gguf"),
        (NAMES, "q8_0", "m-Q8_0.gguf"),
        (["x.gguf"], None, "x.gguf"),
        (["a-Q4_K_S.gguf", "a-UD-Q4_K_XL.gguf", "a-Q5_K_M.gguf"], None, "a-Q4_K_S.gguf"),
        (SPLIT, None, SPLIT[0]),
        (["config.json", "model.safetensors"], None, None),
        (["config.json", "model.safetensors", "m.gguf"], None, "m.gguf"),
    ],
)
def test_choose(names: list[str], file: str | None, wanted: str | None) -> None:
    assert choose(names, HubSource("o/r", file)) == wanted


def test_choose_finds_nothing() -> None:
    for names, file in ((["README.md"], None), (NAMES, "Q3_K_M"), (["config.json", "model.safetensors"], "Q4_0")):
        with pytest.raises(ModelFileError, match="hf:o/r has no"):
            choose(names, HubSource("o/r", file))


def test_parts_of() -> None:
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of(SPLIT[0]) == SPLIT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one snapshot of org/repo; the network is out of reach."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.list_repo_files", unreachable)
    monkeypatch.setattr("octavo.weights.reachable.why_unreachable", lambda url: None)
    folder = tmp_path / "models--org--repo"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc"


def unreachable(*args: Any, **more: Any) -> list[str]:
    raise OSError("no route to host\nand more lines")


def test_what_is_cached_needs_no_network(cache: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^hf:org/repo: no route to host$"):
        resolve("hf:org/repo")
    (cache / "m-Q8_0.gguf").write_bytes(b"x")
    assert resolve("hf:org/repo") == resolve("hf:org/repo:Q8_0") == cache / "m-Q8_0.gguf"
    assert ("hf:org/repo:m-Q8_0.gguf", 1) in [(m.source, m.size) for m in available()]
    with pytest.raises(ModelFileError, match="no route to host"):
        resolve("hf:org/repo:Q4_0")


def test_a_split_file_counts_when_all_parts_are_there(cache: Path) -> None:
    (cache / SPLIT[0]).write_bytes(b"x")
    with pytest.raises(ModelFileError, match="no route"):
        resolve("hf:org/repo")
    (cache / SPLIT[1]).write_bytes(b"x")
    assert resolve("hf:org/repo") == cache / SPLIT[0]


def test_a_cached_folder(cache: Path) -> None:
    (cache / "config.json").write_text("{}")
    (cache / "model.safetensors").write_bytes(b"x" * 9)
    assert resolve("hf:org/repo") == cache
    assert ("hf:org/repo", 9, cache) in [(m.source, m.size, m.path) for m in available()]


def test_fetch_asks_for_the_files_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return f"/cache/{file}"

    def snapshot(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, allow_patterns))
        return "/cache"

    monkeypatch.setattr("octavo.weights.reachable.why_unreachable", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repo: SPLIT)
    assert pull("hf:org/repo") == Path("/cache") / SPLIT[0]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repo: ["config.json", "model.safetensors"])
    assert pull("hf:org/repo") == Path("/cache")
    assert asked == [("org/repo", SPLIT[0]), ("org/repo", SPLIT[1]), ("org/repo", list(hub.FOLDER_FILES))]


def test_an_unreachable_hub_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own client would try six times, for half a minute, and print each attempt."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.list_repo_files", never)
    start = time.monotonic()
    for act in (resolve, pull):
        with pytest.raises(ModelFileError, match=r"hf:org/repo: http://127.0.0.1:9 cannot be reached \(.*refused\)"):
            act("hf:org/repo")
    assert time.monotonic() - start < 5


def never(*args: Any) -> list[str]:
    raise AssertionError("the client must not be asked")


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(503)

    def log_message(self, *args: Any) -> None: ...


def test_any_answer_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert reachable.why_unreachable(f"http://127.0.0.1:{server.server_port}") is None
        server.shutdown()
    monkeypatch.setattr(reachable, "SECONDS", 0.1)
    monkeypatch.setattr(reachable, "_ask", lambda url: time.sleep(5) or "")
    assert reachable.why_unreachable("http://slow.invalid") == "no answer in 0 s"


def test_remove(cache: Path) -> None:
    blob = cache.parent.parent / "blobs" / "b1"
    blob.parent.mkdir()
    blob.write_bytes(b"x" * 9)
    (cache / "m-Q8_0.gguf").symlink_to(blob)
    (cache / "m-Q4_0.gguf").write_bytes(b"y" * 5)
    assert remove("hf:org/repo:m-Q8_0.gguf") == 9
    assert not blob.exists() and not (cache / "m-Q8_0.gguf").is_symlink() and (cache / "m-Q4_0.gguf").exists()
    assert remove("hf:org/repo") > 5 and not cache.parent.parent.exists()
    for gone in ("hf:org/repo", "hf:org/repo:x.gguf"):
        with pytest.raises(ModelFileError, match="is not in"):
            remove(gone)
