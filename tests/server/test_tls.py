"""TLS, served by the server itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from octavo.cli.main import main
from tests.server.harness import serving, until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(key, certificate) of 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *name], check=True, capture_output=True)
    return key, certificate


def test_answers_come_encrypted_and_not_otherwise(tiny_model: Path, logs: Path, pair: tuple[Path, Path]) -> None:
    key, certificate = pair
    options = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    with serving(tiny_model, *options, folder=logs, ready=False) as server:
        assert server.url.startswith("https://")
        with httpx.Client(
            base_url=server.url, verify=ssl.create_default_context(cafile=certificate), timeout=30
        ) as client:
            until(lambda: client.get("/ready").status_code == 200, 60)
            body = {"prompt": "once", "max_tokens": 5, "ignore_eos": True, "stream": True}
            assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{server.port}/health")
        assert server.stop() == 0 and "Traceback" not in server.log


def test_a_key_needs_its_certificate(
    tiny_model: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tiny_model), "--ssl-keyfile", str(pair[0])]) != 0
    assert "--ssl-certfile" in capsys.readouterr().err
