"""Encodes arrays, and with them a backend's inputs and outputs, as msgpack for workers in other processes.

There is no pickle: no part of a message can become code. An array is encoded as dtype, shape and bytes. Decoded
messages are checked against the types of `octavo.types`, and their arrays are read-only views of the message.
"""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.types import Batch, StepResult, Transfers

Message = TypeVar("Message", Batch, Transfers, StepResult)


def encode_array(value: object) -> tuple[str, tuple[int, ...], bytes]:
    """msgspec's `enc_hook`."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a message cannot hold {type(value).__name__}")
    return value.dtype.str, value.shape, value.tobytes()


def decode_array(annotation: Any, parts: Any) -> NDArray[Any]:
    """msgspec's `dec_hook`. annotation: NDArray[scalar type].

    Raises ValueError if the parts have the wrong type or size.
    """
    name, shape, data = msgspec.convert(parts, tuple[str, tuple[int, ...], bytes])
    _, dtype = get_args(annotation)
    if np.dtype(get_args(dtype)[0]).str != name:
        raise ValueError(f"an array of {name} stands where {annotation} should")
    if min(shape, default=0) < 0 or prod(shape) * np.dtype(name).itemsize != len(data):
        raise ValueError(f"an array of shape {shape} cannot have {len(data)} bytes")
    return np.frombuffer(data, name).reshape(shape)


def encode(message: Message) -> bytes:
    return msgspec.msgpack.encode(message, enc_hook=encode_array)


def decode(data: bytes, kind: type[Message]) -> Message:
    """Raises msgspec.DecodeError for anything except an encoded message of this type."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=decode_array)
