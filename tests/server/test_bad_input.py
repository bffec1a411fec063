"""Any input gets a valid answer or a 400 that names the field, never a traceback or a hang."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from typing import Any

import psutil
import pytest

from tests.server.harness import FULL, Server

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TEXT = {"prompt": "hi", "max_tokens": 2}
MESSAGES = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
RESPONSE = {"input": "hi", "max_output_tokens": 2}
EMBEDDING = {"input": "hi"}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSE,
    "/v1/embeddings": EMBEDDING,
}
SAMPLING = {
    "temperature": 100,
    "top_p": 1,
    "top_k": 2**31 - 1,
    "min_p": 1,
    "typical_p": 1,
    "seed": 2**63 - 1,
    "presence_penalty": 2,
    "frequency_penalty": 2,
    "repetition_penalty": 100,
    "min_tokens": 2,
    "n": 32,
    "priority": 1_000_000,
    "timeout": 86_400,
}
# Every numeric field of each route, with its maximum.
NUMBERS: dict[str, dict[str, float]] = {
    "/v1/chat/completions": {
        **SAMPLING,
        "max_tokens": 256,
        "max_completion_tokens": 256,
        "top_logprobs": 20,
        "best_of": 32,
    },
    "/v1/completions": {**SAMPLING, "max_tokens": 256, "logprobs": 20, "prompt_logprobs": 20, "best_of": 1},
    "/v1/messages": {"max_tokens": 256, "temperature": 2, "top_p": 1, "top_k": 2**31 - 1, "timeout": 86_400},
    "/v1/responses": {"max_output_tokens": 256, "temperature": 2, "top_p": 1, "timeout": 86_400},
    "/v1/embeddings": {"dimensions": 64, "timeout": 86_400},
}
TABLE = [(route, field, most) for route, fields in NUMBERS.items() for field, most in fields.items()]


def values(most: float) -> list[Any]:
    return [-(2**31), -1, 0, 1, most, most + 1, 2**63, 1e308, math.nan, math.inf, "7", None, True, [], {}, 10**400]


def error_of(answer: Any) -> dict[str, Any]:
    """An error in OpenAI's or Anthropic's format."""
    error = answer["error"]
    assert isinstance(error["message"], str) and len(error["message"]) < 1000 and error["type"]
    return dict(error)


@pytest.mark.parametrize(("route", "field", "most"), TABLE)
def test_every_number(tiny: Server, route: str, field: str, most: float) -> None:
    extra: dict[str, Any] = {"logprobs": True} if field == "top_logprobs" else {}
    statuses = set()
    for value in values(most):
        body = ROUTES[route] | extra | {field: value}
        status, answer = tiny.post(route, json.dumps(body).encode())
        statuses.add(status)
        assert status in (200, 400), (value, status, answer)
        if status == 400:
            error = error_of(answer)
            named = error.get("param") == field or field in error["message"] or "context" in str(error.get("code"))
            assert named, (field, value, error)
    assert statuses == {200, 400}


FIELDS: list[tuple[str, str, Any]] = [
    ("/v1/chat/completions", "messages", []),
    ("/v1/chat/completions", "messages", None),
    ("/v1/chat/completions", "messages", "hi"),
    ("/v1/chat/completions", "messages", [{"content": "no role"}]),
    ("/v1/chat/completions", "messages", [{"role": "martian", "content": "x"}]),
    ("/v1/chat/completions", "messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
    ("/v1/chat/completions", "messages", [{"role": "user", "content": 7}]),
    ("/v1/chat/completions", "messages", [{"role": "user", "content": "x"}] * 5000),
    ("/v1/chat/completions", "tool_choice", "required"),
    ("/v1/chat/completions", "tool_choice", {"type": "function", "function": {"name": "nobody"}}),
    ("/v1/chat/completions", "tools", [{"type": "function", "function": {"name": "bad name!"}}]),
    ("/v1/chat/completions", "response_format", {"type": "json_schema"}),
    ("/v1/chat/completions", "response_format", {"type": "xml"}),
    ("/v1/chat/completions", "structured_outputs", {"regex": "("}),
    ("/v1/chat/completions", "structured_outputs", {"json": {"type": "nothing"}}),
    ("/v1/chat/completions", "structured_outputs", {"regex": "a", "choice": ["b"]}),
    ("/v1/chat/completions", "structured_outputs", {"grammar": "start: nobody"}),
    ("/v1/chat/completions", "logit_bias", {"x": 1}),
    ("/v1/chat/completions", "logit_bias", {"999999": 1}),
    ("/v1/chat/completions", "logit_bias", {"1": 101}),
    ("/v1/chat/completions", "stop", ["x"] * 65),
    ("/v1/chat/completions", "stop", [""]),
    ("/v1/chat/completions", "stop", 7),
    ("/v1/chat/completions", "bad_words", [""]),
    ("/v1/chat/completions", "allowed_token_ids", [10**6]),
    ("/v1/chat/completions", "stream", "yes"),
    ("/v1/chat/completions", "chat_template_kwargs", {"messages": []}),
    ("/v1/completions", "prompt", ""),
    ("/v1/completions", "prompt", []),
    ("/v1/completions", "prompt", [[]]),
    ("/v1/completions", "prompt", ["a", 1]),
    ("/v1/completions", "prompt", [1.5]),
    ("/v1/completions", "prompt", [-1]),
    ("/v1/completions", "prompt", [10**6]),
    ("/v1/completions", "prompt", [10**30]),
    ("/v1/completions", "prompt", ["x"] * 1000),
    ("/v1/completions", "prompt", "x" * 20_000),
    ("/v1/completions", "suffix", "x"),
    ("/v1/completions", "cache_salt", "x" * 1000),
    ("/v1/messages", "messages", [{"role": "user", "content": [{"type": "image"}]}]),
    ("/v1/messages", "messages", [{"role": "system", "content": "x"}]),
    ("/v1/messages", "tool_choice", {"type": "tool"}),
    ("/v1/responses", "input", []),
    ("/v1/responses", "input", [{"type": "image"}]),
    ("/v1/responses", "input", [{"role": "user"}]),
    ("/v1/responses", "previous_response_id", "resp_1"),
    ("/v1/embeddings", "input", []),
    ("/v1/embeddings", "encoding_format", "hex"),
]


@pytest.mark.parametrize(("route", "field", "value"), FIELDS)
def test_bad_fields_are_named(tiny: Server, route: str, field: str, value: Any) -> None:
    status, answer = tiny.post(route, ROUTES[route] | {field: value})
    error = error_of(answer)
    assert status == 400 and (field in str(error.get("param")) or field in error["message"]), answer


BAD_SCHEMA = {"type": "nothing"}
BAD_TOOL = {"type": "function", "function": {"name": "f", "parameters": BAD_SCHEMA}}
BAD_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": BAD_SCHEMA}}
LONG = "x" * 20_000

# These mistakes are found far from the field that the client wrote. The error must name that field.
OWN_NAMES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("/v1/chat/completions", "response_format", BAD_FORMAT, {}),
    ("/v1/chat/completions", "guided_json", BAD_SCHEMA, {}),
    ("/v1/chat/completions", "guided_regex", "(", {}),
    ("/v1/chat/completions", "tools", [BAD_TOOL], {"tool_choice": "required"}),
    ("/v1/chat/completions", "messages", [{"role": "user", "content": LONG}], {}),
    ("/v1/chat/completions", "max_tokens", 100_000, {}),
    ("/v1/chat/completions", "max_completion_tokens", 100_000, {}),
    ("/v1/completions", "prompt", LONG, {}),
    ("/v1/completions", "max_tokens", 100_000, {}),
    ("/v1/completions", "guided_choice", [], {}),
    ("/v1/responses", "text.format", BAD_SCHEMA, {"text": {"format": {"type": "json_schema", "schema": BAD_SCHEMA}}}),
    ("/v1/responses", "max_output_tokens", 100_000, {}),
    ("/v1/responses", "input", LONG, {}),
    ("/v1/embeddings", "input", "", {}),
    ("/v1/embeddings", "input", LONG, {}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "field", "value", "more"), OWN_NAMES)
def test_fields_have_the_names_the_client_used(
    tiny: Server, route: str, field: str, value: Any, more: dict[str, Any], stream: bool
) -> None:
    status, answer = tiny.post(route, ROUTES[route] | {field: value, "stream": stream} | more)
    error = error_of(answer)
    own = error["param"].partition("[")[0] == field and "structured_outputs" not in error["message"]
    assert status == 400 and own, answer


@pytest.mark.parametrize(
    ("route", "field"),
    [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt"), ("/v1/responses", "input")],
)
def test_a_missing_field_is_named(tiny: Server, route: str, field: str) -> None:
    status, answer = tiny.post(route, {})
    assert status == 400 and error_of(answer)["param"] == field


BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"{}",
    b'{"messages": "\xff\xfe"}',
    b'{"prompt": "\\ud800", "max_tokens": 1}',
    b'{"prompt": "\xed\xa0\x80", "max_tokens": 1}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"prompt": "x", "logit_bias": ' + b'{"1":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b'{"prompt": "x", "max_tokens": ' + b"9" * 100_000 + b"}",
    b"\x00" * 1000,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("route", ROUTES)
def test_hostile_json(tiny: Server, route: str, body: bytes) -> None:
    status, answer = tiny.post(route, body)
    assert status == 400
    error_of(answer)


def test_nan_names_its_field(tiny: Server) -> None:
    status, answer = tiny.post("/v1/completions", b'{"prompt": "x", "temperature": NaN}')
    assert status == 400 and error_of(answer)["param"] == "temperature"


def test_a_body_must_say_that_it_is_json(tiny: Server) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, answer = tiny.post("/v1/completions", TEXT, {"content-type": kind})
        assert status == 415 and error_of(answer)


OLLAMA: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "a", "raw": True, "stream": False, "options": {"num_predict": 1}},
    "/api/chat": {"messages": [{"role": "user", "content": "a"}], "stream": False, "options": {"num_predict": 1}},
    "/api/embed": {"input": "a"},
    "/api/embeddings": {"prompt": "a"},
    "/api/show": {"model": "tiny"},
}
FORM = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` sends


@pytest.mark.parametrize("path", OLLAMA)
def test_ollamas_routes_read_what_curl_sends(tiny: Server, path: str) -> None:
    status, answer = tiny.post(path, OLLAMA[path], FORM)
    assert status == 200, answer
    status, answer = tiny.post(path, b"a=b", FORM)
    assert status == 400 and "the body is not JSON" in answer["error"]


@pytest.mark.parametrize(
    "sent",
    [
        {"origin": "https://example.com"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "none"},
        {"referer": "https://example.com/page"},
    ],
)
@pytest.mark.parametrize("path", OLLAMA)
def test_a_page_of_another_site_cannot_use_them_without_asking(tiny: Server, path: str, sent: dict[str, str]) -> None:
    """A browser sends a form or a text to any server. It asks first (CORS) if the type is application/json."""
    for kind in (FORM["content-type"], "text/plain", "multipart/form-data; boundary=x"):
        status, answer = tiny.post(path, OLLAMA[path], {"content-type": kind, **sent})
        assert status == 415 and "application/json" in answer["error"]
    assert tiny.post(path, OLLAMA[path], sent)[0] == 200
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type", **sent}
    assert tiny.call("OPTIONS", path, None, asked)[0] == 405


def test_too_long_a_body(tiny: Server) -> None:
    status, answer = tiny.post("/v1/completions", {"prompt": "x" * (5 << 20)})
    assert status in (413, 0), answer  # 0: refused while it was still being sent


def test_unknown_paths_and_methods(tiny: Server) -> None:
    assert tiny.get("/v1/nothing")[0] == 404 and error_of(tiny.get("/v1/nothing")[1])
    assert tiny.get("/v1/completions")[0] == 405 and error_of(tiny.get("/v1/completions")[1])
    assert tiny.call("DELETE", "/v1/models", None)[0] == 405


def test_a_path_that_lacks_its_start_is_guessed(tiny: Server) -> None:
    for path, meant in {"/chat/completions": "/v1/chat/completions", "/v1/v1/messages": "/v1/messages"}.items():
        status, answer = tiny.post(path, {})
        assert status == 404 and error_of(answer)["message"] == f"there is no {path}; did you mean {meant}?"
    assert error_of(tiny.post("/nothing", {})[1])["message"] == "there is no /nothing"


def test_half_a_surrogate_pair_is_named(tiny: Server) -> None:
    status, answer = tiny.post("/v1/completions", rb'{"prompt": "a\ud83d"}')
    assert status == 400 and "needs its second half" in error_of(answer)["message"]


def test_unknown_fields_are_ignored(tiny: Server) -> None:
    assert tiny.post("/v1/chat/completions", CHAT | {"user": "u", "metadata": {}, "store": False})[0] == 200


def test_timeouts_are_kept(tiny: Server) -> None:
    long = TEXT | {"max_tokens": 500, "ignore_eos": True, "timeout": 0.02}
    status, answer = tiny.post("/v1/completions", long | {"n": 16})
    assert status == 408 and error_of(answer)["code"] == "deadline_exceeded"
    status, answer = tiny.post("/v1/completions", TEXT, {"x-request-timeout": "nonsense"})
    assert status == 400 and error_of(answer)["param"] == "x-request-timeout"


def raw(server: Server, data: bytes, pause: float = 0.0, step: int = 1 << 16, seconds: float = 40.0) -> bytes:
    """Sends bytes, optionally slowly, and returns the response up to the end of the connection."""
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        try:
            for start in range(0, len(data), step):
                connection.sendall(data[start : start + step])
                if pause:
                    time.sleep(pause)
            while chunk := connection.recv(65536):
                answer += chunk
        except (ConnectionError, TimeoutError):
            pass
    return bytes(answer)


def test_endless_headers_cost_no_memory(tiny: Server) -> None:
    size = (100 << 20) if FULL else (8 << 20)
    before = psutil.Process(tiny.process.pid).memory_info().rss
    head = b"GET /health HTTP/1.1\r\nhost: x\r\n"
    for filler in (b"x: " + b"y" * size, b"".join(b"h%d: y\r\n" % i for i in range(size // 12))):
        answer = raw(tiny, head + filler)
        assert not answer or answer.startswith(b"HTTP/1.1 431"), answer[:100]
    assert psutil.Process(tiny.process.pid).memory_info().rss - before < 48 << 20
    assert tiny.status("/health") == 200


def test_nonsense_on_the_wire(tiny: Server) -> None:
    lines = [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n"]
    lines += [b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n", b"GET http://[::1 HTTP/1.1\r\n\r\n"]
    for line in lines:
        answer = raw(tiny, line + b"\r\n\r\n", seconds=5)
        assert not answer or answer.split()[1][:1] == b"4", answer[:100]
    assert tiny.status("/health") == 200


def test_slow_writers_hold_up_nobody(tiny: Server) -> None:
    """Slowloris: headers that never end, and bodies that arrive too slowly."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n"
    started = time.monotonic()
    answers: list[bytes] = []

    def crawl() -> None:
        answers.append(raw(tiny, head + b"x: " + b"y" * 200, pause=0.1, step=1, seconds=25))

    threads = [threading.Thread(target=crawl) for _ in range(50)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(20):
        begin = time.monotonic()
        assert tiny.status("/health") == 200
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.05)
    print(f"50 slow writers: the slowest of 20 /health took {slowest * 1000:.0f} ms")
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 30 and slowest < 2
    assert all(not answer or answer.startswith(b"HTTP/1.1 408") for answer in answers)


def test_nothing_of_this_was_our_bug(tiny: Server) -> None:
    assert "Traceback" not in tiny.log
    assert tiny.post("/v1/completions", TEXT)[0] == 200


@pytest.mark.parametrize("bad", ["", "x" * 2000, [99999]])
@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_one_bad_prompt_among_many_is_named(tiny: Server, path: str, field: str, bad: Any) -> None:
    status, answer = tiny.post(path, {field: ["a", "b", bad, "c"], "max_tokens": 1})
    assert status == 400 and answer["error"]["param"] == f"{field}[2]", answer
    assert answer["error"]["message"].startswith(f"{field}[2]: ")
