"""One HTTP request's generations, from the engine's side: an inbox that fills as the engine steps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from octavo.outputs import OutputDelta, RequestOutput
from octavo.server.http.errors import ApiError
from octavo.types import Request


@dataclass(eq=False, slots=True)
class Generation:
    """One engine request: a prompt with its n answers. `number` tells the prompts of one HTTP request apart."""

    request: Request
    output: RequestOutput
    inbox: Inbox
    number: int
    last_tokens: dict[int, float] = field(default_factory=dict)  # of each answer, when its latest token came
    ended: bool = False

    @property
    def num_output_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.output.outputs)


Item = tuple[Generation, OutputDelta]


class Inbox:
    """What came for an HTTP request since it last looked. Bounded by what its max_tokens let it ask for.

    stream: False keeps no deltas and wakes the reader at the end only.
    """

    __slots__ = ("_error", "_items", "_nudged", "_open", "_stream", "_waiter")

    def __init__(self, stream: bool = True) -> None:
        self._stream = stream
        self._items: list[Item] = []
        self._error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._open = 0  # generations that have not ended
        self._nudged = False

    @property
    def finished(self) -> bool:
        """Whether nothing more can come."""
        return not self._items and self._error is None and self._open == 0

    def expect(self) -> None:
        """One more generation will write here."""
        self._open += 1

    def put(self, item: Item) -> None:
        if self._stream:
            self._items.append(item)
            self._wake()

    def end(self) -> None:
        """A generation has written its last."""
        self._open -= 1
        if self._open == 0:
            self._wake()

    def fail(self, error: ApiError) -> None:
        """Nothing more will come: `next` raises this after what came before."""
        self._error = self._error or error
        self._wake()

    def nudge(self) -> None:
        """Lets `next` return even though nothing has come."""
        self._nudged = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Item]:
        """Everything that came since the last call: an empty list when it was nudged, or when all generations have
        ended and it is `finished`. Raises ApiError."""
        while not self._items and not self._nudged:
            if self._error is not None:
                raise self._error
            if self._open == 0:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, self._items, self._nudged = self._items, [], False
        return items
