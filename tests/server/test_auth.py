"""API keys are needed on every route but a short list, and tenants do not share cached prefixes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import ConfigError
from octavo.server.http import keys
from octavo.server.http.middleware import PUBLIC
from tests.server.harness import Server, serving

FIRST, SECOND = "sk-first-key", "sk-second-key"
SECRET = "the quick brown fox jumps over the lazy dog and then sleeps for a week " * 3


@pytest.fixture(scope="module")
def locked(tiny_model: Path, logs: Path) -> Iterator[Server]:
    file = logs / "keys"
    file.write_text(f"# tenants\n{SECOND} tenant-two 2\n")
    with serving(tiny_model, "--api-key", FIRST, "--api-key-file", str(file), folder=logs) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_every_route_needs_a_key_but_an_explicit_list(locked: Server) -> None:
    schema = locked.get("/openapi.json", bearer(FIRST))[1]
    routes = [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]
    routes += [("GET", "/metrics"), ("GET", "/octavo/state"), ("GET", "/openapi.json"), ("GET", "/no/such/thing")]
    assert len(routes) > 14
    for method, path in routes:
        status, answer = locked.call(method, path.replace("{name}", "tiny"), {} if method == "POST" else None)
        if path in PUBLIC:
            assert status == 200, path
        else:
            assert status == 401 and "needs an API key" in str(answer), path
    assert frozenset({"/health", "/ready", "/version"}) == PUBLIC


@pytest.mark.parametrize(
    "header", [bearer(FIRST), bearer(SECOND), {"x-api-key": FIRST}, {"authorization": f"bearer {FIRST}"}]
)
def test_right_keys(locked: Server, header: dict[str, str]) -> None:
    assert locked.get("/v1/models", header)[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        {},
        *map(bearer, ["", FIRST + "x", FIRST[:-1], "x" * 5000]),
        {"authorization": FIRST},
        {"authorization": "Basic x"},
        {"x-api-key": "\xff\xfe"},
    ],
)
def test_wrong_keys(locked: Server, header: dict[str, str]) -> None:
    assert locked.get("/v1/models", header)[0] == 401


def test_the_key_is_checked_before_the_body_is_read(locked: Server) -> None:
    assert locked.post("/v1/completions", b"{" * 1000)[0] == 401


def cached(server: Server, key: str, **more: Any) -> int:
    body = {"prompt": SECRET, "max_tokens": 1, **more}
    status, answer = server.post("/v1/completions", body, bearer(key))
    assert status == 200
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_prefixes_are_shared_within_a_key_and_a_salt_only(locked: Server) -> None:
    assert cached(locked, FIRST) == 0
    assert cached(locked, FIRST) > 100
    assert cached(locked, SECOND) == 0
    assert cached(locked, SECOND) > 100
    assert cached(locked, FIRST, cache_salt="mine") == 0
    assert cached(locked, FIRST, cache_salt="mine") > 100
    assert cached(locked, FIRST, cache_salt="yours") == 0


def test_keys_are_not_in_the_log(locked: Server) -> None:
    locked.get("/v1/models", bearer(FIRST))
    assert FIRST not in locked.log and SECOND not in locked.log
    assert "key=tenant-two" in locked.log


def test_all_keys_are_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys are compared, so the time does not depend on the key."""
    compared: list[bytes] = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    many = tuple(keys.make(f"key-{i}") for i in range(5))
    for given, found in ((b"key-0", many[0]), (b"key-4", many[4]), (b"nobody", None)):
        compared.clear()
        assert keys.find(many, given) is found and len(compared) == 5


@pytest.mark.parametrize("line", ["key name 0", "key name -1", "key name x", "key name 1 more", "key name nan"])
def test_bad_key_files_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\n# comment\n{line}\n")
    with pytest.raises(ConfigError, match="line 3"):
        keys.read(file)


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a\nb named\nc other 2.5  # comment\n")
    read = keys.read(file)
    assert [key.weight for key in read] == [1, 1, 2.5] and [key.name for key in read[1:]] == ["named", "other"]
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="no API key"):
        keys.read(file)
