"""README.md as a newcomer uses it: every command and the Python example, typed in the clone, after a plain install.

The clone is a copy of this one. Its .venv has the package as `pip install '.[server]'` leaves it. Commands run in the
README's order, each by bash, and must exit with status 0. A command that would take minutes, or needs what a test does
not have, is changed as SUBSTITUTIONS says. All others run as they are typed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import model_path
from tests.tiny import Tiny, write_tiny_gguf

pytestmark = pytest.mark.timeout(900)  # the first test builds the wheel: two minutes where nothing is built yet

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL = "smollm2-135m"
SECONDS = 120  # for one command
SERVE = re.compile(r"octavo serve\b")
ADDRESS = "http://127.0.0.1:8000"

# (pattern, replacement, reason). \g<0> is the text that was found, {tiny} a small model.
SUBSTITUTIONS = (
    (r'"messages"', r'"max_tokens": 24, \g<0>', "an answer may be long"),
    (r"octavo run\b", r"\g<0> --max-tokens 24", "an answer may be long"),
    (r"octavo rm \S+", "cp {tiny} $OCTAVO_HOME/models/a.gguf && octavo rm a.gguf", "the model may not be here"),
    (r"octavo chat .*", r"printf 'Hi\\n' | \g<0> --max-tokens 8", "there is no terminal to type at"),
    (r"octavo bench smollm2-135m", r"\g<0> --batch 1 --prompt-tokens 16 --gen-tokens 4 --repeat 1", "time"),
    (r"octavo bench limits\b", r"\g<0> --threads 1", "time"),
    (r"octavo bench spec \S+", r"\g<0> --workload json --method ngram --tokens 8 --repeat 1", "time"),
    (r"octavo bench quality\b", r"\g<0> --tokens 100", "time"),
    (r"octavo bench kv\b", r"\g<0> --tokens 50 --context 64 --pool 50 --sequences 2 --repeat 1", "time"),
    (r"octavo bench serving\b", r"\g<0> --output-tokens 8", "time"),
    (r"octavo compare\b", r"\g<0> --engines octavo --batch 1 --prompt-tokens 16 --gen-tokens 4 --repeat 1", "time"),
    (r"octavo tune layers \S+", "octavo tune layers {tiny}", "time"),
    (r"octavo train heads \S+", "octavo train heads {tiny} --tokens 200 --rank 4 --size 16 --epochs 1", "time"),
)


def blocks(language: str) -> list[str]:
    """The README's code blocks in this language."""
    return [text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == language]


def commands() -> list[str]:
    """The commands of the README's shell blocks, without comments. Lines that end in a backslash are joined."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [re.split(r"\s+#\s", line)[0].strip() for line in lines if line.strip()]


def substituted(command: str, tiny: Path) -> str:
    for pattern, replacement, _ in SUBSTITUTIONS:
        command = re.sub(pattern, replacement, command, count=1)
    return command.replace("{tiny}", str(tiny))


@dataclass(frozen=True)
class Clone:
    """A copy of the sources whose .venv has the package installed. tiny: a model file."""

    root: Path
    env: dict[str, str]
    tiny: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def serve(self, command: str) -> Iterator[str]:
        """Starts a server and yields its address when it is ready. Stops it as a user does, by Ctrl-C."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(["bash", "-c", f"exec {command} --port {port}"], cwd=self.root, env=self.env)
        try:
            _wait_ready(process, f"http://127.0.0.1:{port}/ready")
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < end, "the server does not become ready"
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    model, folder = model_path(MODEL), tmp_path_factory.mktemp("readme")
    root, home = folder / "octavo", folder / "home"
    hidden = ("build", "*.so", "__pycache__", ".*")
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*hidden))
    home.mkdir()
    (home / "models").mkdir()  # of links, so that no command can change what they lead to
    for file in model.parent.glob("*.gguf"):
        (home / "models" / file.name).symlink_to(file)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {"OCTAVO_HOME": str(home), "PATH": f"{root / '.venv' / 'bin'}:{env['PATH']}", "COLUMNS": "120"}
    _install(root, _wheel(folder), env)
    return Clone(root, env, write_tiny_gguf(folder / "tiny.gguf", Tiny(layers=4, context=2048)))


def _wheel(folder: Path) -> Path:
    """Builds what `pip install .` builds, in the folder of development builds: only changes are compiled."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    if importlib.util.find_spec("scikit_build_core"):
        command.append("--no-build-isolation")
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("octavo-*.whl")
    return wheel


def _install(root: Path, wheel: Path, env: dict[str, str]) -> None:
    """Leaves .venv as scripts/quickstart does, with its note of what is installed, so that it does not build again."""
    python = root / ".venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(root / ".venv")], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[server]"], env=env, check=True)
    whole = "$(fingerprint pyproject.toml CMakeLists.txt native src)"
    note = f'source scripts/_env.sh; echo "package {whole}" >.venv/.octavo'
    subprocess.run(["bash", "-c", note], cwd=root, env=env, check=True)


@pytest.fixture(scope="module")
def server(clone: Clone) -> Iterator[str]:
    """The address of the server that other commands of the README use."""
    with clone.serve(f"octavo serve {MODEL}") as address:
        yield address


def test_the_package_is_not_the_source_folder(clone: Clone) -> None:
    """The clone's folders must not shadow the installed package, because the sources have no compiled module."""
    found = Path(clone.run("python -c 'import octavo._native; print(octavo.__file__)'").stdout.strip())
    assert found.is_relative_to(clone.root / ".venv")


@pytest.mark.parametrize("command", commands())
def test_a_command_works_as_it_is_typed(command: str, clone: Clone, request: pytest.FixtureRequest) -> None:
    if pulled := re.match(r"octavo pull (\S+)", command):
        model_path(pulled[1])  # tests download nothing
    command = substituted(command, clone.tiny)
    if SERVE.match(command):
        with clone.serve(command):
            return
    if ADDRESS in command:
        command = command.replace(ADDRESS, request.getfixturevalue("server"))
    clone.run(command)


@pytest.mark.parametrize("example", range(len(blocks("python"))))
def test_a_python_example_works(example: int, clone: Clone) -> None:
    (clone.root / "example.py").write_text(blocks("python")[example])
    assert len(clone.run("python example.py").stdout.split()) > 50


def test_every_substitution_is_needed() -> None:
    """Each matches a command of the README and changes it, so none is left from an older README."""
    for pattern, replacement, why in SUBSTITUTIONS:
        matching = [command for command in commands() if re.search(pattern, command)]
        assert matching, f"no command of the README has {pattern}: remove its substitution"
        assert why and all(re.sub(pattern, replacement, command) != command for command in matching)


def test_commands_are_read_as_a_shell_would() -> None:
    assert len(commands()) > 15 and blocks("python")
    assert all(command and not command.startswith("#") for command in commands())
    assert all(command.split()[0] not in ("...", "$") for command in commands())
