"""docs/deploy/Containerfile without a container: its instructions, carried out one after the other in a folder.

The folder stands for the container's root. Commands that change the system (SYSTEM) are left out. All others run as
they are written, with the folder before the paths in PLACES.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.models import model_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # it builds the native module

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "deploy" / "Containerfile"
PLACES = re.compile(r"(?<![\w.])/(src|opt/octavo|models)\b")
SYSTEM = ("apt-get", "rm -rf /var/lib/apt", "useradd", "chown")
NO_EFFECT = {"FROM", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
MODEL = "smollm2-135m"


@dataclass
class Container:
    """What the instructions so far have made. root: the folder that stands for `/`."""

    root: Path
    env: dict[str, str]
    start: dict[str, list[str]] = field(default_factory=dict)  # ENTRYPOINT and CMD
    health: str = ""

    def inside(self, text: str) -> str:
        return PLACES.sub(lambda found: str(self.root / found[1]), text)

    def carry_out(self, instruction: str) -> None:
        name, _, rest = instruction.partition(" ")
        if name == "COPY" and not rest.startswith("--from"):
            source, target = rest.split()
            shutil.copytree(ROOT / source, self.inside(target), ignore=_ignored)
        elif name == "RUN":
            for command in rest.split(" && "):
                if not command.startswith(SYSTEM):
                    self.run(command)
        elif name == "ENV":
            for key, value in re.findall(r"(\w+)=(\S+)", rest):
                self.env[key] = self.inside(value).replace("$PATH", self.env["PATH"])
        elif name in ("ENTRYPOINT", "CMD"):
            self.start[name] = json.loads(rest)
        elif name == "HEALTHCHECK":
            self.health = rest.partition(" CMD ")[2]
        else:
            assert name in NO_EFFECT or rest.startswith("--from"), f"{name}: the test does not know this instruction"

    def run(self, command: str) -> None:
        subprocess.run(["bash", "-c", self.inside(command)], env=self.env, cwd=self.root, check=True)


def _ignored(folder: str, names: list[str]) -> set[str]:
    """The names in `folder` that .dockerignore keeps out."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    at_root = Path(folder) == ROOT
    out: set[str] = set()
    for name in names:
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            if (at_root or rule.startswith("**/")) and fnmatch.fnmatch(name, pattern):
                (out.discard if rule.startswith("!") else out.add)(name)
    return out


def instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    root = tmp_path_factory.mktemp("container")
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "OCTAVO"))
    }
    made = Container(root, {**bare, "PATH": f"{Path(sys.executable).parent}:{bare['PATH']}"})
    for instruction in instructions():
        made.carry_out(instruction)
    (root / "models" / "models").mkdir(parents=True)
    model = model_path(MODEL)
    (root / "models" / "models" / model.name).symlink_to(model)
    return made


def test_the_container_starts_and_is_healthy(container: Container) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [*container.start["ENTRYPOINT"], *container.start["CMD"], "--port", port]
    process = subprocess.Popen(command, env={**container.env, "OCTAVO_API_KEY": "secret"}, cwd=container.root)
    try:
        end = time.monotonic() + 60
        check = ["bash", "-c", container.health.replace("8000", port)]
        while subprocess.run(check, env=container.env, capture_output=True, cwd=container.root).returncode:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_nothing_but_the_sources_is_copied(container: Container) -> None:
    copied = {path.name for path in (container.root / "src").iterdir()}
    assert copied - {"build"} == {"pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt", "native", "src"}
