"""The messages between the server and an engine process: msgpack frames over a socket pair.

A frame is a 4-byte little-endian length, then a msgpack body of that length. The decoder checks the body against the
types below. A frame cannot carry code (unlike pickle), and no other process can connect to a socket pair.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from octavo import wire
from octavo.types import Request, SequenceDelta

MAX_FRAME = 1 << 28  # bytes; a larger frame is a bug
_LENGTH = struct.Struct("<I")


class Message(msgspec.Struct, array_like=True, tag=str.lower, gc=False):
    """Base class of all messages."""


# From the server to the engine.


class Start(Message):
    """The first frame. settings: keyword arguments of `assemble.engine_config`. logs: see `logs.configure`."""

    model: str
    settings: dict[str, Any]
    tokenizer: str | None = None
    logs: tuple[str, str] = ("text", "info")


class Add(Message):
    request: Request


class Abort(Message):
    request_id: str


class Ping(Message):
    number: int


class Inspect(Message):
    """Asks for a Snapshot."""


class Stop(Message):
    pass


# From the engine to the server.


class Loading(Message):
    done: int
    total: int


class Ready(Message):
    """The engine is loaded. Lengths are in tokens. memory: bytes by use. capacity: tokens the whole KV pool holds.

    pooling: of embeddings, as the model's file says. device: its name; device_memory: its bytes.
    """

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    num_blocks: int
    block_size: int
    capacity: int
    hidden_size: int
    pooling: str | None
    memory: dict[str, int]
    device: str
    device_memory: int
    settings: dict[str, Any]


class Failed(Message):
    """The engine could not start, or has lost its device. mistake: it is a user's, so a restart would not help."""

    reason: str
    mistake: bool


class Pong(Message):
    """fragmentation: see `report.waste`. device_used: bytes of the device's memory that are taken, by any process. Sent
    here rather than with each step because they are slow to find out."""

    number: int
    fragmentation: float
    device_used: int = 0


class Refused(Message):
    """The engine rejects a request. kind: "request" or "capacity"."""

    request_id: str
    reason: str
    field: str | None
    kind: str


class Step(Message):
    """What a step or an abort brought. tokens: query tokens of the step. stats: `report.stats`, if due."""

    deltas: list[SequenceDelta]
    tokens: int = 0
    stats: dict[str, Any] | None = None


class Snapshot(Message):
    """The state of the engine: see `report.snapshot`."""

    state: dict[str, Any]


Command = Start | Add | Abort | Ping | Inspect | Stop
Event = Loading | Ready | Failed | Pong | Refused | Step | Snapshot


_encoder = msgspec.msgpack.Encoder(enc_hook=wire.encode_array)
commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event, dec_hook=wire.decode_array)


def encode(message: Message) -> bytes:
    """Returns the message as one frame."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_FRAME
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Splits a byte stream into frame bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the bodies that `data` completes. Raises ValueError for a length above MAX_FRAME."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            end = start + _LENGTH.size + size
            if len(buffer) < end:
                break
            yield bytes(buffer[start + _LENGTH.size : end])
            start = end
        del buffer[:start]
