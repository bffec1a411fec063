"""What the server and an engine process say to each other: msgpack frames over a socket pair.

A frame is 4 bytes of length (little-endian) and that many bytes of msgpack, checked against the types below as it is
read. Nothing in a frame can become code, and there is no port that another process could open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from octavo import wire
from octavo.types import Request, SequenceDelta

MAX_FRAME = 1 << 28  # bytes; a frame of more is a bug, not a message
_LENGTH = struct.Struct("<I")


class Message(msgspec.Struct, array_like=True, tag=str.lower, gc=False):
    """One line of the conversation."""


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
    """The engine runs. Lengths are tokens, memory is bytes by use. capacity: tokens the whole KV pool holds."""

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    num_blocks: int
    block_size: int
    capacity: int
    hidden_size: int
    memory: dict[str, int]
    settings: dict[str, Any]


class Failed(Message):
    """The engine could not start. mistake: the user can mend it, so starting it again is no use."""

    reason: str
    mistake: bool


class Pong(Message):
    """fragmentation: see `report.waste`; it changes slowly and takes a while to find."""

    number: int
    fragmentation: float


class Refused(Message):
    """A request that cannot run. kind: "request" or "capacity"."""

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
    """How the engine stands: see `report.snapshot`."""

    state: dict[str, Any]


Command = Start | Add | Abort | Ping | Inspect | Stop
Event = Loading | Ready | Failed | Pong | Refused | Step | Snapshot


_encoder = msgspec.msgpack.Encoder(enc_hook=wire.encode_array)
commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event, dec_hook=wire.decode_array)


def encode(message: Message) -> bytes:
    """A whole frame."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_FRAME
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that these bytes complete. Raises ValueError for a length that no frame has."""
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
