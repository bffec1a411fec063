"""The deployment files are correct: their options exist and their metrics are exported."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.server.harness import LAUNCH, ROOT, Server

DEPLOY = ROOT / "docs" / "deploy"


def test_the_dashboard_asks_for_metrics_that_exist(tiny: Server) -> None:
    exported = set(re.findall(r"^octavo:\w+", tiny.get("/metrics")[1], re.MULTILINE))
    declared = set(re.findall(r"^# TYPE (octavo:\w+)", tiny.get("/metrics")[1], re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    used = {name for panel in dashboard["panels"] for t in panel["targets"] for name in _names(t["expr"])}
    used |= _names((ROOT / "docs" / "server.md").read_text())
    missing = {name for name in used if name not in exported and not any(name.startswith(d) for d in declared)}
    assert len(used) > 15 and not missing


def _names(text: str) -> set[str]:
    return set(re.findall(r"octavo:\w+", text))


def test_options_in_files_and_documents_exist() -> None:
    help_text = subprocess.run([*LAUNCH, "serve", "--help"], cwd=ROOT, capture_output=True, timeout=60).stdout.decode()
    files = [DEPLOY / "octavo.service", DEPLOY / "Containerfile", ROOT / "docs" / "server.md"]
    for file in files:
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _serve_part(file)))
        assert not {option for option in options if option not in help_text}, file.name


def test_the_container_installs_what_the_server_needs() -> None:
    (install,) = re.findall(r"pip install .*", (DEPLOY / "Containerfile").read_text())
    assert install.endswith('"/src[server]"')


def _serve_part(file: Path) -> str:
    """The text without lines about other programs."""
    lines = file.read_text().splitlines()
    return "\n".join(
        line for line in lines if not re.search(r"useradd|apt-get|podman|pip |HEALTHCHECK|COPY|enable", line)
    )
