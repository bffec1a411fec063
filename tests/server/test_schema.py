"""Schemathesis against our OpenAPI description: no valid or invalid request makes the server fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.harness import FULL, Server

SECONDS = 1500 if FULL else 25
CHECKS = (
    "not_a_server_error",
    "content_type_conformance",
    "response_schema_conformance",
    "status_code_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.timeout(SECONDS + 180)
def test_no_operation_fails_or_hangs(tiny: Server, tmp_path: Path) -> None:
    """Positive and negative data, all phases. Every response matches its description, and none is a 5xx."""
    options = ["--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--max-examples", "200" if FULL else "5"]
    options += ["--generation-deterministic", "--no-shrink", "--no-color", "--request-timeout", "60", "--mode", "all"]
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    done = subprocess.run(
        [*command, f"{tiny.url}/openapi.json", *options], cwd=tmp_path, capture_output=True, timeout=SECONDS + 120
    )
    output = done.stdout.decode()
    print(output[output.find("Test cases:") :][:100])
    assert done.returncode == 0, output[-5000:]
    tiny.wait_idle(30)
    assert "Traceback" not in tiny.log
