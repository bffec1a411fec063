"""A batch can be sent as bytes: workers of one model in other processes will receive it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict, astuple

from octavo import wire
from octavo.backends.null import NullBackend
from octavo.config import CacheConfig
from octavo.types import Batch, StepResult, Transfers
from tests.unit.control import VOCAB, RandomTrees, drain, engine
from tests.unit.test_engine import ALONE, REQUESTS


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
    if isinstance(left, msgspec.Struct):
        return type(left) is type(right) and all(map(same, astuple(left), astuple(right)))
    return type(left) is type(right) and left == right


class Remote(NullBackend):
    """Runs each batch after a round trip through bytes, as a worker in another process would."""

    def __init__(self, cache: CacheConfig):
        super().__init__(cache, VOCAB)
        self.kinds: set[str] = set()  # fields that had a value in some message

    def _sent(self, message: Any) -> Any:
        arrived = wire.decode(wire.encode(message), type(message))
        assert same(arrived, message)
        return arrived

    def run(self, batch: Batch) -> StepResult:
        result: StepResult = self._sent(super().run(self._sent(batch)))
        for message in (batch, result):
            self.kinds |= {name for name, value in asdict(message).items() if value is not None}
        return result

    def transfer(self, transfers: Transfers) -> None:
        self.kinds |= {name for name in ("moves", "copies") if len(getattr(transfers, name))}
        super().transfer(self._sent(transfers))


def test_a_backend_behind_a_wire_gives_the_same_answers() -> None:
    proposer = RandomTrees(ALONE, random.Random(4))
    remote = engine(blocks=60, proposer=proposer)
    remote._backend = backend = Remote(CacheConfig(60, 4))
    assert drain(remote, REQUESTS) == ALONE
    assert backend.kinds >= {"parents", "moves", "copies", "logprobs", "top_ids", "ranks", "token_ids", "finite"}


@pytest.mark.parametrize(
    "moves",
    [
        pytest.param(("<f4", [1, 2], b"\0" * 8), id="another type"),
        pytest.param(("<i4", [1, 3], b"\0" * 8), id="too few bytes"),
        pytest.param(("<i4", [-1, -2], b"\0" * 8), id="a negative shape"),
        pytest.param(("|O", [1], b"\0" * 8), id="pointers"),
        pytest.param(["<i4", 2], id="no array"),
    ],
)
def test_what_is_no_array_of_its_type_is_refused(moves: Any) -> None:
    good = ("<i4", [0, 2], b"")
    data = msgspec.msgpack.encode({"moves": good, "copies": good})
    assert wire.decode(data, Transfers).moves.shape == (0, 2)
    with pytest.raises(msgspec.DecodeError):
        wire.decode(msgspec.msgpack.encode({"moves": moves, "copies": good}), Transfers)
