"""scripts/device without a GPU: every section runs, at tiny sizes, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", ["gates", "invariance", "kernels", "engine", "transformers"])
def test_a_section_runs_alone(section: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "scripts" / "device", "--dry-run", section], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    figures = json.loads((tmp_path / "device.json").read_text())
    assert any(figure["section"] == section for figure in figures)
    assert not [figure for figure in figures if figure["unit"] == "failed" or figure["value"] is False]
    assert "| section | what | figure | |" in done.stdout


def test_an_unknown_section_is_named() -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([ROOT / "scripts" / "device", "gate"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "unknown section gate: choose from gates, invariance" in done.stderr
