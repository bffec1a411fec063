"""Reads a request's body and decodes it to a given type. Errors name the field."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from octavo.server.http.choices import choices
from octavo.server.http.errors import ApiError, bad_request
from octavo.server.settings import Limits

Body = TypeVar("Body")
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
BROWSERS = frozenset({"origin", "referer", "sec-fetch-site"})  # a browser sends at least one of them
_NOT_A_CHOICE = re.compile(r"invalid enum value (?P<value>.*)", re.DOTALL)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
MALFORMED = "the body is not JSON"


async def read(request: Request, kind: type[Body], limits: Limits, any_type: bool = False) -> Body:
    """Reads and decodes a body. any_type: its Content-Type may be any, except from a browser.

    Raises ApiError: 400, 408 (too slow), 413 (too long), 415 (wrong Content-Type).
    """
    if not any_type or BROWSERS.intersection(request.headers):
        _check_type(request)
    try:
        data = await asyncio.wait_for(_read_all(request, limits.body), limits.body_seconds)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body took more than {limits.body_seconds:.0f} s to arrive") from None
    except ClientDisconnect:
        raise ApiError(499, "the client has gone") from None
    return decode(data, kind)


def _check_type(request: Request) -> None:
    """Requires application/json: browsers then ask this server (CORS) before they send another site's request."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise ApiError(415, "the body must be sent with Content-Type: application/json", param="Content-Type")


async def _read_all(request: Request, most: int) -> bytes:
    if int(request.headers.get("content-length", "0") or 0) > most:
        raise _too_long(most)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise _too_long(most)
    return bytes(data)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body is longer than {most} bytes: shorten it, or raise --max-body-size")


def decode(data: bytes, kind: type[Body]) -> Body:
    """Decodes JSON to `kind`. Raises ApiError (400)."""
    try:
        data.decode("utf-8")
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        raise bad_request(f"{MALFORMED}: byte {error.start} is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise bad_request(f"{MALFORMED}: it is nested too deeply", code="invalid_json") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except msgspec.DecodeError as error:
        raise _malformed(data, error) from None


def _malformed(data: bytes, error: msgspec.DecodeError) -> ApiError:
    if (field := _not_finite(data)) is not None:
        return bad_request(f"{field}: JSON has no NaN and no Infinity", field, "invalid_json")
    if _LONE_SURROGATE.search(data):
        return bad_request(f"{MALFORMED}: a \\ud8.. escape needs its second half, \\udc..", code="invalid_json")
    return bad_request(f"{MALFORMED}: {error}", code="invalid_json")


def _invalid(message: str, kind: type) -> ApiError:
    match = _AT.match(message)
    assert match is not None
    path = (match["path"] or "").lstrip(".").replace("[...]", "")
    what = match["what"][0].lower() + match["what"][1:]
    if (missing := _MISSING.search(what)) is not None:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return bad_request(f"{path}: this field is needed", path, "missing_field")
    if (wrong := _NOT_A_CHOICE.fullmatch(what)) is not None and (words := choices(kind, path)):
        what = f"must be {'one of ' * (len(words) > 1)}{', '.join(words)}; got {wrong['value']}"
    return bad_request(f"{path}: {what}" if path else f"the body is wrong: {what}", path or None, "invalid_type")


def _not_finite(data: bytes) -> str | None:
    """The field that holds NaN or Infinity. JSON has neither, but many programs write them."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return _path_of(found, 0)


def _path_of(value: Any, depth: int) -> str | None:
    if not isinstance(value, dict) or depth > 4:
        return None
    for name, item in value.items():
        if isinstance(item, float) and not math.isfinite(item):
            return str(name)[:100]
        if (inner := _path_of(item, depth + 1)) is not None:
            return f"{str(name)[:100]}.{inner}"
    return None
