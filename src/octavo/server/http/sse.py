"""Server-sent events, as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
DONE = b"data: [DONE]\n\n"


def encode(value: Any) -> bytes:
    """JSON. It has no raw newlines, so it fits on a `data:` line."""
    return _encoder.encode(value)


def data(value: Any) -> bytes:
    return b"data: " + _encoder.encode(value) + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """An event with a name, as Anthropic's and the Responses API have them."""
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(value) + b"\n\n"
