"""Invalid settings give one error each, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octavo.errors import ConfigError
from octavo.server.settings import Limits, ModelSource, ServerSettings, check

MODELS = (ModelSource(("a", "b"), "a.gguf"),)
NO_FILE = Path("/nowhere/key.pem")

BAD: list[tuple[dict[str, Any], str]] = [
    ({"models": ()}, "no model to serve"),
    ({"models": (*MODELS, ModelSource(("c", "b"), "b.gguf"))}, "two models have the name 'b'"),
    ({"models": (ModelSource(("a",), "a", tool_call_parser="xml"),)}, "tool_call_parser must be auto, hermes"),
    ({"models": (ModelSource(("a",), "a", reasoning_parser="r2"),)}, "reasoning_parser must be auto, qwen3"),
    ({"ssl_keyfile": NO_FILE}, "both --ssl-keyfile and --ssl-certfile"),
    ({"ssl_certfile": NO_FILE}, "both --ssl-keyfile and --ssl-certfile"),
    ({"ssl_keyfile": NO_FILE, "ssl_certfile": NO_FILE}, "there is no file .*key.pem"),
    ({"port": -1}, "port must be from 0 to 65535; got -1"),
    ({"port": 65536}, "port must be from 0 to 65535; got 65536"),
    ({"limits": Limits(body=-1)}, "max_body_size must be more than 0"),
    ({"limits": Limits(connections=-1)}, "max_connections must be more than 0"),
    ({"limits": Limits(queued_requests=-1)}, "max_queued_requests must be at least 0"),
    ({"limits": Limits(queued_tokens=-1)}, "max_queued_tokens must be at least 0"),
    ({"limits": Limits(send_seconds=float("nan"))}, "send_timeout must be more than 0; got nan"),
    ({"shutdown_timeout": -0.5}, "shutdown_timeout must be at least 0"),
    ({"engine_timeout": float("nan")}, "engine_timeout must be more than 0"),
    ({"idle_seconds": -1.0}, "idle_timeout must be at least 0"),
    ({"request_timeout": 0.0}, "request_timeout must be more than 0; got 0.0"),
    ({"request_timeout": float("nan")}, "request_timeout must be more than 0; got nan"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_contradicts_itself_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        check(ServerSettings(**{"models": MODELS, **change}))


def test_what_does_not_is_taken():
    settings = ServerSettings(MODELS, port=0, idle_seconds=float("inf"), otlp_endpoint="http://127.0.0.1:4318")
    assert check(settings) is settings


def test_files_that_are_no_certificate_are_refused(tmp_path: Path):
    """test_tls.py has those that are."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    for file in (key, certificate):
        file.touch()
    with pytest.raises(ConfigError, match=r"certificate.pem and .*key.pem are no certificate and its private key"):
        check(ServerSettings(MODELS, ssl_keyfile=key, ssl_certfile=certificate))
