"""Server-sent events, as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
DONE = b"data: [DONE]\n\n"


def encode(value: Any) -> bytes:
    """Encodes JSON without newlines, so that it fits on one `data:` line."""
    return _encoder.encode(value)


def data(value: Any) -> bytes:
    return b"data: " + _encoder.encode(value) + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """An event with a name. Anthropic's API and the Responses API use them."""
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(value) + b"\n\n"
